"""Choosing the weights of a run by a split that is not the test: the primary metric at regular steps, the best kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
import numpy as np
import optax

from radnet_jax import sharding
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.parts import Parts, make_objective
from radnet_jax.records import open_judged
from radnet_jax.state import TrainState

NO_BEST = "no step was the best: what selects was undefined (NaN) each time"
WEIGHTS = ("last", "average", "best")


class Best(NamedTuple):
    """The step, and the value of the primary metric on the split that selects."""

    step: int
    value: float


def check(config: ConfigDict, parts: Parts) -> None:
    """Refuses weights that the run will not have, and a selection by a metric that the split can't give."""
    wanted = config.judged_weights
    if wanted not in WEIGHTS:
        raise UserError(
            f"config.judged_weights{nearest(wanted, WEIGHTS)}", got=repr(wanted), expected=", ".join(WEIGHTS)
        )
    # Without a split that selects, the nearest neighbours beside a pretraining tell its best step.
    selects = ("select.every", config.select.every) if config.data.judge else ("knn.every", config.knn.every)
    needs = {"average": ("average", config.average), "best": selects}
    if wanted in needs and not needs[wanted][1]:
        name = needs[wanted][0]
        raise UserError(f"config.judged_weights is {wanted!r} and config.{name} is 0", fix=f"set config.{name} too")
    by = ("primary_metric", "loss")
    if config.select_by not in by:
        raise UserError("config.select_by", got=repr(config.select_by), expected=" or ".join(by))
    plateau = config.plateau
    if min(plateau.patience, plateau.stop) < 0 or not 0 < plateau.factor <= 1 or not 0 <= plateau.threshold < 1:
        raise UserError(
            "config.plateau",
            got=dict(plateau),
            expected="patience and stop of at least 0, factor and threshold below 1",
        )
    selecting = split(config)
    if selecting is None:
        if plateau.patience or plateau.stop:
            raise UserError("config.plateau waits for selections", fix="set config.select.every too")
        return
    if not config.data.judge:
        raise UserError(
            "config.select is for runs that are judged", got="config.data.judge=()", fix="set select.every=0"
        )
    if config.select.split == "test":
        raise UserError("config.select.split is the test split", expected="val, or another that no result rests on")
    if make_objective(config, parts).judged == "masks":
        if config.select_by == "loss":
            raise UserError("masks are selected by their metric", got="a loss", fix="set select_by=primary_metric")
        return  # what there is to find is not known before the masks are read
    labels, _ = selecting.all_labels()
    reason = _metric(config, np.random.default_rng(0).random(labels.shape), selecting).reason
    if reason:
        raise UserError(
            f"{config.primary_metric} is undefined on split {config.select.split!r} ({reason})",
            fix="choose another primary_metric or select.every=0",
        )


def split(config: ConfigDict) -> Split | None:
    """Returns the split that selects, or None where nothing is selected."""
    return open_judged(config, config.select.split) if config.select.every else None


def value(config: ConfigDict, scores: Float[np.ndarray, "n k"] | Predictions, selecting: Split) -> float:
    """Returns the primary metric of scores, or of judged masks; NaN, which is never better, where it is undefined."""
    if isinstance(scores, Predictions):
        return METRICS.get(config.primary_metric)(scores.scores, scores.labels, scores.label_mask).value
    return _metric(config, scores, selecting).value


def values(config: ConfigDict, scores: Float[np.ndarray, "n k"] | Predictions, selecting: Split) -> dict[str, float]:
    """Returns the primary metric, and the loss where it selects, by their names in the log."""
    found = {f"{config.select.split}_{config.primary_metric}": value(config, scores, selecting)}
    if config.select_by == "loss" and not isinstance(scores, Predictions):
        loss = cross_entropy(scores, *selecting.all_labels(), task=selecting.card.task)
        found[f"{config.select.split}_loss"] = loss
    return found


def goal(config: ConfigDict, found: dict[str, float]) -> float:
    """Returns what is selected by, of `values`; higher is better."""
    if config.select_by == "loss":
        return -found[f"{config.select.split}_loss"]
    return found[f"{config.select.split}_{config.primary_metric}"]


def cross_entropy(
    scores: Float[np.ndarray, "n k"],
    labels: Float[np.ndarray, "n k"],
    mask: Float[np.ndarray, "n k"],
    *,
    task: str,
) -> float:
    """Mean cross entropy of probabilities over the cases (multi-label: the entries) that are known; float64."""
    p = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    if task == "multi_label":
        return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))[mask > 0]))
    return float(-np.mean(np.sum(labels * np.log(p), axis=1)[mask.min(axis=1) > 0]))


def begin(config: ConfigDict, state: TrainState) -> TrainState:
    """Returns the state with what a plateau is told by: the best of what selects so far, and selections since."""
    if not (config.plateau.patience or config.plateau.stop):
        return state
    start = {"factor": 1.0, "mark": np.inf, "waited": 0, "lowest": np.inf, "since_lowest": 0}
    return state.replace(aux={**state.aux, "plateau": {k: jnp.asarray(v, jnp.float32) for k, v in start.items()}})


def after(config: ConfigDict, state: TrainState, values: dict[str, float], mesh: Mesh) -> TrainState:
    """Returns the state after a selection: with a lower learning rate, where what selects has been on a plateau.

    As torch's ReduceLROnPlateau: a loss below `lowest * (1 - threshold)`, a metric above `highest * (1 + threshold)` is
    progress; after more than `patience` selections without any the factor is applied, and the count starts again. For
    the end of the run any better value is. What is waited for is what selects, kept so that lower is better.
    """
    if "plateau" not in state.aux:
        return state
    value = float(np.float32(-goal(config, values)))  # as it is kept: an equal one is no better
    told = {k: float(v) for k, v in state.aux["plateau"].items()}
    needed = told["mark"]
    if np.isfinite(needed):
        needed -= config.plateau.threshold * abs(needed)
    told["waited"] = 0.0 if value < needed else told["waited"] + 1
    told["mark"] = value if not told["waited"] else told["mark"]
    told["since_lowest"] = 0.0 if value < told["lowest"] else told["since_lowest"] + 1
    told["lowest"] = min(told["lowest"], value)
    if config.plateau.patience and told["waited"] > config.plateau.patience:
        told |= {"factor": told["factor"] * config.plateau.factor, "waited": 0.0}
    new = sharding.replicate({k: jnp.asarray(v, jnp.float32) for k, v in told.items()}, mesh)
    return state.replace(aux={**state.aux, "plateau": new})


def stopped(config: ConfigDict, state: TrainState) -> bool:
    """Whether the run has ended early: more than `plateau.stop` selections without a better value."""
    stop = config.plateau.stop
    return bool(stop) and float(state.aux["plateau"]["since_lowest"]) > stop


def learning_rate(schedule: optax.Schedule, step: int, state: TrainState) -> Any:
    """Returns the learning rate of a step."""
    rate = schedule(step)
    return rate * state.aux["plateau"]["factor"] if "plateau" in state.aux else rate


def _metric(config: ConfigDict, scores: Float[np.ndarray, "n k"], selecting: Split) -> Metric:
    return METRICS.get(config.primary_metric)(scores, *selecting.all_labels())
