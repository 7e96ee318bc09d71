"""BYOL (Grill et al., "Bootstrap Your Own Latent", 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.cosine import swapped_cosine
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import PredictingTarget
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class BYOL(PredictingTarget):
    """From one view the online network predicts the target network's embedding of the other (section 3.1).

    Both networks see both views, each view in a pass of its own, with BatchNorm's statistics of the global batch. The
    target has its own running statistics, and follows the online network with a momentum that rises to 1 by a cosine
    (section 3.3).

    Departures from the paper: none in the loss. The bias in front of a BatchNorm, which cancels it, is left out.

    Attributes:
      backbone: the network that is kept (online).
      projector: MLP to the embeddings, of both networks.
      predictor: MLP on the embeddings, online only.
      momentum: of the target at step 0.
      total_steps: when it is 1.
    """

    backbone: Any
    projector: Any
    predictor: Any
    momentum: float
    total_steps: int

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views, target = batch["views"], state.objective_state["target"]
        online, stats = networks.apply_views(self.modules, params, state.model_state["batch_stats"], views)
        seen, target_stats = networks.apply_views(self.target_modules, target["params"], target["batch_stats"], views)
        cosine = swapped_cosine(online["predictor"], seen["projector"])
        return 4 - 4 * cosine, LossAux(
            {"batch_stats": stats},
            {"target": {**target, "batch_stats": target_stats}},
            {"loss_at_chance": jnp.float32(4)},
            features=online["backbone"],
            embedding=online["projector"],
        )

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        return jnp.float32(len(batch["views"]))


@OBJECTIVES.register("byol")
def byol(
    *,
    backbone: Any,
    total_steps: int,
    momentum: float = 0.996,
    hidden: int = 4096,
    dim: int = 256,
    groups: int = 1,
) -> BYOL:
    """Makes the objective; the defaults are the paper's (section 3.3). Projector and predictor are `hidden`-`dim`."""
    if not 0 <= momentum <= 1:
        raise UserError("byol: momentum", got=momentum, expected="0 to 1")
    mlp = Projector(layers=2, hidden=hidden, out=dim, last_norm=False, last_bias=False, groups=groups)
    return BYOL(backbone=backbone, projector=mlp, predictor=mlp, momentum=momentum, total_steps=total_steps)
