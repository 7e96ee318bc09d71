"""Work between steps that an objective declares (`objectives.Phase`): when it is due, and its pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import rng, sharding
from radnet_jax.augment.views import center
from radnet_jax.data.pipeline import eval_batches
from radnet_jax.objectives import Objective, Phase
from radnet_jax.parts import Parts
from radnet_jax.preprocessing import Adapter
from radnet_jax.state import TrainState


def is_due(phase: Phase, step: int) -> bool:
    """Whether a phase runs before this step."""
    since = step - phase.first
    return since >= 0 and (since % phase.every == 0 if phase.every else since == 0)


class Phases:
    """The phases of a run's objective. A signal to stop that comes in one is heeded at the step after it.

    `metrics` are those of the latest of each phase; those of before a checkpoint are handed in.
    """

    def __init__(
        self, config: ConfigDict, parts: Parts, objective: Objective, metrics: Mapping[str, Any] | None = None
    ):
        self._config, self._parts, self._objective = config, parts, objective
        self.metrics: dict[str, Any] = dict(metrics or {})
        self._rules = sharding.make_rules(config.fsdp)

    def due(self, step: int) -> list[Phase]:
        """Returns the phases that run before `step`, in the order that the objective declares."""
        return [phase for phase in self._objective.phases if is_due(phase, step)]

    def run(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, Array]]:
        """Runs what is due before `step`; returns the state with a new objective_state, and what its metrics are.

        The objective_state of the given state is used up.
        """
        metrics: dict[str, Array] = {}
        for phase in self.due(step):
            logging.info("step %d: %s", step, phase.name)
            state = self._observed(state, phase) if phase.reads else state
            finish = _compiled_finish(self._objective, phase, self._parts.mesh, self._rules)
            remembered, more = finish(*_split(state), self._config.seed, step)
            state = state.replace(objective_state=remembered)
            metrics |= more
        self.metrics |= metrics
        return state, metrics

    def values(self) -> dict[str, float]:
        """Returns the metrics as numbers, for a checkpoint."""
        return {name: float(value) for name, value in self.metrics.items()}

    def _observed(self, state: TrainState, phase: Phase) -> TrainState:
        """Shows the whole train split to the objective, in record order."""
        parts = self._parts
        observe = _compiled_observe(self._objective, phase, parts.adapter, parts.mesh, self._rules)
        processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        for batch in eval_batches(parts.split, batch_size=self._config.eval_batch_size, **processes):
            wanted = {k: np.asarray(batch[k]) for k in ("image", "index", "valid")}
            remembered, rest = _split(state)
            remembered = observe(remembered, rest, sharding.put_batch(wanted, parts.mesh))
            state = state.replace(objective_state=remembered)
        return state


def _split(state: TrainState) -> tuple[PyTree, TrainState]:
    """What a phase changes, and is given away to be changed in place; and what it reads."""
    rest: Any = {"objective_state": {}, "opt_state": (), "aux": {}}
    return state.objective_state, state.replace(**rest)


def _joined(remembered: PyTree, rest: TrainState, mesh: Mesh) -> TrainState:
    return sharding.gather(rest, mesh).replace(objective_state=remembered)


@functools.lru_cache(maxsize=16)
def _compiled_observe(
    objective: Objective, phase: Phase, adapter: Adapter, mesh: Mesh, rules: sharding.Rules
) -> Callable[..., PyTree]:
    def observe(remembered: PyTree, rest: TrainState, batch: dict[str, Array]) -> PyTree:
        shown = {
            "image": center(batch["image"], adapter),
            "index": jnp.where(batch["valid"] > 0, batch["index"], -1),  # as `bank.write` leaves out
            "valid": batch["valid"],
        }
        seen = objective.observe(_joined(remembered, rest, mesh), shown, phase)
        return sharding.constrain(seen, mesh, rules, prefix="objective_state/")

    return jax.jit(observe, donate_argnums=0)


@functools.lru_cache(maxsize=16)
def _compiled_finish(
    objective: Objective, phase: Phase, mesh: Mesh, rules: sharding.Rules
) -> Callable[..., tuple[PyTree, dict[str, Array]]]:
    def finish(remembered: PyTree, rest: TrainState, seed: Array, step: Array) -> tuple[PyTree, dict[str, Array]]:
        key = rng.stream(seed, f"phase {phase.name}", step)
        remembered, metrics = objective.finish(_joined(remembered, rest, mesh), phase, key)
        remembered = sharding.constrain(remembered, mesh, rules, prefix="objective_state/")
        return remembered, sharding.gather(metrics, mesh)

    return jax.jit(finish, donate_argnums=0)
