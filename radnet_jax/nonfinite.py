"""When a step is not finite: what went wrong first, and what it takes to look at it again."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
import numpy as np

from radnet_jax import trees
from radnet_jax.objectives import Batch, Objective
from radnet_jax.state import TrainState
from radnet_jax.step import gradients_of

FOLDER = "nonfinite"
OF_STATE = ("params", "model_state", "objective_state", "optimizer state")  # kinds of leaves that a checkpoint holds


def first_leaves(objective: Objective, state: TrainState, batch: Batch, key: Array, accumulate: int = 1) -> list[str]:
    """Names what is not finite in a step, in the order in which it is computed: state, batch, loss, gradient.

    Args:
      objective: of the run.
      state: before the step.
      batch: as the step saw it.
      key: as the loss saw it.
      accumulate: parts that the step divided the batch into.

    Returns:
      Names such as "batch views", "params backbone/stem_conv/kernel", "loss", "gradient head/kernel"; of the first kind
      that is not finite, all leaves, in the order of the tree. Empty where all is finite.
    """
    loss, aux, gradient = jax.jit(functools.partial(gradients_of, objective, accumulate=accumulate))(state, batch, key)
    kinds: tuple[tuple[str, PyTree], ...] = (
        ("params", state.params),
        ("model_state", state.model_state),
        ("objective_state", state.objective_state),
        ("optimizer state", state.opt_state),
        ("batch", dict(batch)),
        ("loss", {"": loss}),
        ("new model_state", aux.model_state),
        ("gradient", gradient),
    )
    for kind, tree in kinds:
        names = [f"{kind} {name}".strip() for name, leaf in trees.named_leaves(tree) if not _finite(leaf)]
        if names and kind == "loss":
            # A loss of NaN says little; the statistics of the layers say where the NaN arose.
            names += [f"statistics {n}" for n, leaf in trees.named_leaves(aux.model_state) if not _finite(leaf)]
        if names:
            return names
    return []


def _finite(leaf: Array) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.isfinite(leaf).all())


def save_batch(workdir: Path, step: int, rows: Mapping[str, np.ndarray]) -> Path:
    """Writes this process's rows of the batch of `step`, as they were read; the folder is readable by its owner only.

    Returns:
      The file, to be read by `numpy.load`.
    """
    folder = workdir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"step_{step}_process_{jax.process_index()}.npz"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **rows)
    os.replace(unfinished, path)
    return path
