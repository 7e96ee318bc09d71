"""Barlow Twins (Zbontar et al., "Self-Supervised Learning via Redundancy Reduction", 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.barlow import barlow_twins as loss_of
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Chain):
    """Each dimension of the embedding agrees between two views, and with no other dimension (section 2.1, equation 1).

    Departures from the paper: none in the loss. Correlations are of the global batch, and each view has a pass of its
    own, as in the authors' code.

    Attributes:
      backbone: the network that is kept.
      projector: MLP to the embeddings, without biases.
      weight_off_diagonal: lambda of equation 1.
    """

    backbone: Any
    projector: Any
    weight_off_diagonal: float

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        stats = state.model_state["batch_stats"]
        outputs, stats = networks.apply_views(self.modules, params, stats, batch["views"])
        features, z = outputs["backbone"], outputs["projector"]
        loss, metrics = loss_of(z, weight=self.weight_off_diagonal)
        return loss, LossAux({"batch_stats": stats}, state.objective_state, metrics, features=features, embedding=z)


@OBJECTIVES.register("barlow_twins")
def barlow_twins(
    *,
    backbone: Any,
    weight_off_diagonal: float = 0.0051,
    projector_layers: int = 3,
    dim: int = 8192,
) -> BarlowTwins:
    """Makes the objective; the defaults are those of the authors' code. `dim` is the width of the whole projector."""
    if not weight_off_diagonal >= 0:
        raise UserError("barlow_twins: weight_off_diagonal", got=weight_off_diagonal, expected="0 or more")
    projector = Projector(layers=projector_layers, hidden=dim, out=dim, last_norm=False, last_bias=False)
    return BarlowTwins(backbone=backbone, projector=projector, weight_off_diagonal=weight_off_diagonal)
