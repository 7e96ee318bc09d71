"""InfoMin (Tian et al., "What Makes for Good Views for Contrastive Learning?", 2020), in the form of its checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.losses.info_nce import info_nce
from radnet_jax.models.heads import JigsawHead, Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.moco import MoCo, check_numbers, check_queue, enqueue, target_keys
from radnet_jax.objectives.pirl import with_jigsaw
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoMin(MoCo):
    """MoCo with strong views, and the puzzle of an image's tiles as a second query (section 4.3, appendix).

    The view and the puzzle have half of the loss each, and share keys and queue: both look for the target's embedding
    of the other view. The tiles go through the backbone one by one, and a head joins them in the order they come in.

    Departures from the authors' code: those of `MoCo`. The recipe changes the values of tiles too, theirs does not.

    Attributes:
      jigsaw: head on the features of the tiles.
    """

    jigsaw: Any

    requires = frozenset({"views", "tiles"})
    heads = r"(projector|jigsaw)/.*"

    @property
    def jigsaw_modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "jigsaw": self.jigsaw}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, model_state, remembered = super().init(rng, batch)
        return *with_jigsaw(rng, self.jigsaw_modules, batch, params, model_state), remembered

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views, stats = batch["views"], state.model_state["batch_stats"]
        keys, remembered = target_keys(self.modules, state.objective_state, views[:, 1], self.groups)
        outputs, stats = networks.apply(self.modules, params, stats, views[:, 0], train=True)
        puzzle, stats = networks.apply(self.jigsaw_modules, params, stats, networks.fold(batch["tiles"]), train=True)
        queue = lax.stop_gradient(remembered["queue"]["keys"])
        of_view, metrics = info_nce(outputs["projector"], keys, queue, temperature=self.temperature)
        of_puzzle, more = info_nce(puzzle["jigsaw"], keys, queue, temperature=self.temperature)
        compared = [networks.unit(outputs["projector"]), networks.unit(puzzle["jigsaw"]), keys]
        return (of_view + of_puzzle) / 2, LossAux(
            {"batch_stats": stats},
            {**remembered, "queue": enqueue(remembered["queue"], keys)},
            metrics | {"jigsaw_accuracy": more["contrastive_accuracy"]},
            features=outputs["backbone"][:, None],
            embedding=jnp.stack(compared, axis=1),
        )


@OBJECTIVES.register("infomin")
def infomin(
    *,
    backbone: Any,
    batch_size: int,
    groups: int = 1,
    temperature: float = 0.15,
    queue: int = 65536,
    momentum: float = 0.999,
    projector_hidden: int = 2048,
    projector_dim: int = 128,
) -> InfoMin:
    """Makes the objective; the defaults are the checkpoint's: an MLP of two layers for the view and for each tile."""
    check_numbers("infomin", temperature=temperature, momentum=momentum)
    check_queue("infomin", queue, batch_size)
    return InfoMin(
        backbone=backbone,
        projector=Projector(layers=2, hidden=projector_hidden, out=projector_dim, norm=False, last_norm=False),
        jigsaw=JigsawHead(layers=2, hidden=projector_hidden, out=projector_dim),
        temperature=temperature,
        queue=queue,
        momentum=momentum,
        groups=groups,
    )
