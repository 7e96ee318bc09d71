"""MoCo version 3 (Chen, Xie & He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax import lax
from jaxtyping import Array, Float, PyTree

from radnet_jax.losses.info_nce import in_batch_nce
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import PredictingTarget
from radnet_jax.objectives.moco import check_numbers
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class MoCoV3(PredictingTarget):
    """Each view's prediction finds the target's embedding of the other among those of the batch (algorithm 1).

    ctr(q1, k2) + ctr(q2, k1), each 2 t times the cross-entropy, with negatives of the global batch and no queue. Each
    view has a pass of its own through either network, with BatchNorm statistics of the global batch. The target follows
    with a momentum that rises to 1 by a cosine.

    Departures from the paper: none in the loss.

    Attributes:
      backbone: the network that is kept (online).
      projector: MLP to the embeddings, of both networks.
      predictor: MLP on the embeddings, online only.
      temperature: t.
      momentum: of the target at step 0.
      total_steps: when it is 1.
    """

    backbone: Any
    projector: Any
    predictor: Any
    temperature: float
    momentum: float
    total_steps: int

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views, target = batch["views"], state.objective_state["target"]
        online, stats = networks.apply_views(self.modules, params, state.model_state["batch_stats"], views)
        seen, target_stats = networks.apply_views(self.target_modules, target["params"], target["batch_stats"], views)
        q, k = online["predictor"], lax.stop_gradient(seen["projector"])
        first, metrics = in_batch_nce(q[:, 0], k[:, 1], temperature=self.temperature)
        second, others = in_batch_nce(q[:, 1], k[:, 0], temperature=self.temperature)
        metrics = {
            "contrastive_accuracy": (metrics["contrastive_accuracy"] + others["contrastive_accuracy"]) / 2,
            "loss_at_chance": metrics["loss_at_chance"] + others["loss_at_chance"],
        }
        remembered = {"target": {**target, "batch_stats": target_stats}}
        aux = LossAux({"batch_stats": stats}, remembered, metrics, features=online["backbone"], embedding=q)
        return first + second, aux


@OBJECTIVES.register("moco_v3")
def moco_v3(
    *,
    backbone: Any,
    total_steps: int,
    temperature: float = 1.0,
    momentum: float = 0.996,
    hidden: int = 4096,
    dim: int = 256,
    projector_layers: int = 2,
    predictor_last_norm: bool = False,
) -> MoCoV3:
    """Makes the objective; the defaults are the authors' for ResNet-50.

    Projector and predictor have BatchNorm after each layer, without scale and offset after the last. The authors leave
    the one behind the predictor out for ResNet-50, and give transformers a projector of three layers (section 4.1).
    """
    check_numbers("moco_v3", temperature=temperature, momentum=momentum)
    projector = Projector(layers=projector_layers, hidden=hidden, out=dim, last_scale=False)
    predictor = Projector(
        layers=2, hidden=hidden, out=dim, last_norm=predictor_last_norm, last_scale=False, last_bias=False
    )
    return MoCoV3(
        backbone=backbone,
        projector=projector,
        predictor=predictor,
        temperature=temperature,
        momentum=momentum,
        total_steps=total_steps,
    )
