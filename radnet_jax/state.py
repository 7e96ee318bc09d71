"""The train state, and what a loss hands back."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct
from jaxtyping import Array, Int, PyTree


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
    """What a loss returns beside its value: the new collections, and scalars for the log."""

    model_state: PyTree
    objective_state: PyTree
    metrics: dict[str, Array]
