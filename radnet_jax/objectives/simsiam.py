"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.losses.cosine import swapped_cosine
from radnet_jax.models.checks import check_positive
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import Predicting
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class SimSiam(Predicting):
    """From one view a predictor predicts the embedding of the other, which gets no gradient (equations 1 and 2).

    Departures from the paper: none in the loss. Each view has a pass of its own, as in the authors' code.

    Attributes:
      backbone: the network that is kept.
      projector: MLP to the embeddings; its last BatchNorm has no scale and no offset (the authors' code).
      predictor: a bottleneck.
    """

    backbone: Any
    projector: Any
    predictor: Any

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        stats = state.model_state["batch_stats"]
        outputs, stats = networks.apply_views(self.modules, params, stats, batch["views"])
        loss = -swapped_cosine(outputs["predictor"], outputs["projector"])
        return loss, LossAux(
            {"batch_stats": stats},
            state.objective_state,
            {},
            features=outputs["backbone"],
            embedding=outputs["projector"],
        )

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        return jnp.float32(len(batch["views"]))


@OBJECTIVES.register("simsiam")
def simsiam(*, backbone: Any, dim: int = 2048, bottleneck: int = 512, groups: int = 1) -> SimSiam:
    """Makes the objective; the defaults are the paper's (section 3): `dim` is the width of all but the bottleneck."""
    check_positive("simsiam", bottleneck=bottleneck)
    projector = Projector(layers=3, hidden=dim, out=dim, last_scale=False, groups=groups)
    predictor = Projector(layers=2, hidden=bottleneck, out=dim, last_norm=False, groups=groups)
    return SimSiam(backbone=backbone, projector=projector, predictor=predictor)
