"""VICReg (Bardes, Ponce and LeCun, "Variance-Invariance-Covariance Regularization", 2022)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.vicreg import vicreg as loss_of
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class VICReg(Chain):
    """Embeddings of two views are equal, vary in each dimension, and share nothing between dimensions (section 4.1).

    Departures from the paper: the terms are scaled as in the authors' code, see `losses.vicreg`. Each view has a pass
    of its own, as there.

    Attributes:
      backbone: the network that is kept.
      projector: the "expander", MLP to the embeddings.
      invariance: weight of the squared difference (lambda).
      variance: weight of the hinge on the standard deviations (mu).
      covariance: weight of the covariances (nu).
      gamma: standard deviation that is wanted.
    """

    backbone: Any
    projector: Any
    invariance: float
    variance: float
    covariance: float
    gamma: float

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        stats = state.model_state["batch_stats"]
        outputs, stats = networks.apply_views(self.modules, params, stats, batch["views"])
        features, z = outputs["backbone"], outputs["projector"]
        weights = {k: getattr(self, k) for k in ("invariance", "variance", "covariance", "gamma")}
        loss, metrics = loss_of(z, **weights)
        return loss, LossAux({"batch_stats": stats}, state.objective_state, metrics, features=features, embedding=z)


@OBJECTIVES.register("vicreg")
def vicreg(
    *,
    backbone: Any,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    dim: int = 8192,
) -> VICReg:
    """Makes the objective; the defaults are the paper's (section 4.2). `dim` is the width of the three-layer MLP."""
    weights = dict(invariance=invariance, variance=variance, covariance=covariance, gamma=gamma)
    for name, value in weights.items():
        if not value >= 0:
            raise UserError(f"vicreg: {name}", got=value, expected="0 or more")
    projector = Projector(layers=3, hidden=dim, out=dim, last_norm=False, last_bias=False)
    return VICReg(backbone=backbone, projector=projector, **weights)
