"""The train state, and what a loss hands back."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct
from jaxtyping import Array, Float, Int, PyTree


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training; all of it is checkpointed.

    Attributes:
      step: updates done, which is also batches consumed: the only clock.
      params: what the optimizer updates: {"backbone", "projector", "head", ...}.
      model_state: Linen collections by module: {"batch_stats": {"backbone": ..., "projector": ...}}.
      objective_state: what an objective remembers without gradient (target network, queue, ...); {} for most.
      opt_state: the optimizer's state.
      aux: anything beside the objective (weight average, online probe); {} for most.
    """

    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    objective_state: PyTree
    opt_state: PyTree
    aux: PyTree


class LossAux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
      model_state: the new collections.
      objective_state: what the objective remembers.
      metrics: scalars for the log; a contrastive objective gives its loss at chance as `loss_at_chance`.
      features: the backbone's features of each view that it saw, for the online probe.
      embedding: what the loss compares, of any length, for the collapse monitors.

    Nothing of it has a gradient. A pretraining objective gives `features`; `embedding` where it has one.
    """

    model_state: PyTree
    objective_state: PyTree
    metrics: dict[str, Array]
    features: Float[Array, "b v d"] | None = None
    embedding: Float[Array, "b v d"] | None = None
