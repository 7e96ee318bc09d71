"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses import dino as losses
from radnet_jax.models.checks import check_above_zero
from radnet_jax.models.heads import Projector, UnitLinear
from radnet_jax.objectives import OBJECTIVES, Batch, multicrop, networks
from radnet_jax.objectives.chain import RisingTarget
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class DINO(RisingTarget):
    """A student's outputs for every view follow a teacher's for the two global ones (section 3.1).

    The teacher is an average of the student. Its outputs are centred by their running mean and sharpened by a low
    temperature, which together keep the two from collapsing.

    Departures from the paper:
      While the last layer is frozen, in the first epochs, its gradient is zero. The authors' code leaves it out of the
        optimizer: here AdamW shrinks its rows meanwhile, which changes nothing of their directions.
      The last layer's norm is 1, always; the authors let it be trained for some of their ViTs.
      The teacher's temperature rises with each step, in the authors' code with each epoch.

    The teacher's backbone is the one that is kept (section 3.1; the published results are of it); the student's stands
    in the checkpoint beside it.

    Attributes:
      backbone: the network; its teacher's copy is kept.
      projector: MLP to the bottleneck.
      last_layer: unit rows to the outputs, from the bottleneck scaled to length 1.
      momentum: of the teacher at step 0; it rises to 1 by a cosine.
      total_steps: when it is 1.
      student_temperature: tau_s.
      temperature_first: tau_t in the beginning.
      temperature_last: tau_t from step `temperature_steps` on; linear between them.
      temperature_steps: see above.
      centre_momentum: m of equation 4.
      frozen_steps: steps in which the last layer gets no gradient.
      local_views: smaller views of each image beside the two; 0 for none.
    """

    backbone: Any
    projector: Any
    last_layer: Any
    momentum: float
    total_steps: int
    student_temperature: float
    temperature_first: float
    temperature_last: float
    temperature_steps: int
    centre_momentum: float
    frozen_steps: int
    local_views: int

    heads = r"(projector|last_layer)/.*"
    kept = "target"

    @property
    def requires(self) -> frozenset[str]:
        return multicrop.requires(self.local_views)

    @property
    def modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "projector": self.projector, "last_layer": self.last_layer}

    def begin(self, state: TrainState) -> PyTree:
        return {**super().begin(state), "centre": jnp.zeros((self.last_layer.out,), jnp.float32)}

    def teacher_temperature(self, step: Array) -> Float[Array, ""]:
        share = jnp.minimum(step / self.temperature_steps, 1.0) if self.temperature_steps else jnp.ones(())
        return self.temperature_first + (self.temperature_last - self.temperature_first) * share

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views = batch["views"]
        target, centre = state.objective_state["target"], state.objective_state["centre"]
        params = {**params, "last_layer": _held(params["last_layer"], state.step < self.frozen_steps)}
        stats = state.model_state["batch_stats"]
        features, z, stats = multicrop.apply(self.modules, params, stats, batch)
        last_layer = {"last_layer": self.last_layer}
        student, _ = networks.apply(last_layer, params, stats, networks.fold(z), train=True)
        teacher, target_stats = networks.apply(
            self.modules, target["params"], target["batch_stats"], networks.fold(views), train=True
        )
        seen = networks.unfold(teacher["last_layer"], views.shape[1])
        loss, metrics = losses.dino(
            networks.unfold(student["last_layer"], z.shape[1]),
            seen,
            centre,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature(state.step),
        )
        remembered = {
            "target": {**target, "batch_stats": target_stats},
            "centre": losses.new_centre(centre, seen, momentum=self.centre_momentum),
        }
        return loss, LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=z)


@jax.custom_vjp
def _held(params: PyTree, frozen: Array) -> PyTree:
    """Returns the parameters as they are (see `UnitLinear`); their gradient is zero while they are frozen."""
    del frozen
    return params


_held.defvjp(
    lambda params, frozen: (params, frozen),
    lambda frozen, gradient: (jax.tree.map(lambda g: jnp.where(frozen, 0.0, g), gradient), None),
)


@OBJECTIVES.register("dino")
def dino(
    *,
    backbone: Any,
    total_steps: int,
    steps_per_epoch: int,
    local_views: int,
    outputs: int = 65536,
    hidden: int = 2048,
    bottleneck: int = 256,
    norm: bool = False,
    groups: int = 1,
    momentum: float = 0.996,
    student_temperature: float = 0.1,
    temperature_first: float = 0.04,
    temperature_last: float = 0.07,
    temperature_epochs: int = 30,
    centre_momentum: float = 0.9,
    frozen_epochs: int = 1,
) -> DINO:
    """Makes the objective; the defaults are those of the authors' ViT-S/16, trained for 800 epochs.

    `norm` is a BatchNorm after the projector's hidden layers, as the authors' ResNet-50 has.

    Raises:
      UserError: for a temperature or momentum out of range.
    """
    check_above_zero(
        "dino",
        student_temperature=student_temperature,
        temperature_first=temperature_first,
        temperature_last=temperature_last,
    )
    if min(temperature_epochs, frozen_epochs) < 0:
        raise UserError(
            "dino: temperature_epochs, frozen_epochs",
            got=f"{temperature_epochs}, {frozen_epochs}",
            expected="0 or more",
        )
    for name, value in (("momentum", momentum), ("centre_momentum", centre_momentum)):
        if not 0 <= value <= 1:
            raise UserError(f"dino: {name}", got=value, expected="0 to 1")
    return DINO(
        backbone=backbone,
        projector=Projector(
            layers=3, hidden=hidden, out=bottleneck, norm=norm, last_norm=False, groups=groups, activation="gelu"
        ),
        last_layer=UnitLinear(outputs),
        momentum=momentum,
        total_steps=total_steps,
        student_temperature=student_temperature,
        temperature_first=temperature_first,
        temperature_last=temperature_last,
        temperature_steps=temperature_epochs * steps_per_epoch,
        centre_momentum=centre_momentum,
        frozen_steps=frozen_epochs * steps_per_epoch,
        local_views=local_views,
    )
