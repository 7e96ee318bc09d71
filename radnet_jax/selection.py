"""Choosing the weights of a run by a split that is not the test: the primary metric at regular steps, the best kept."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from ml_collections import ConfigDict
import numpy as np

from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.parts import Parts, make_objective

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
    needs = {"average": ("average", config.average), "best": ("select.every", config.select.every)}
    if wanted in needs and not needs[wanted][1]:
        name = needs[wanted][0]
        raise UserError(f"config.judged_weights is {wanted!r} and config.{name} is 0", fix=f"set config.{name} too")
    selecting = split(config)
    if selecting is None:
        return
    if not config.data.judge:
        raise UserError(
            "config.select is for runs that are judged", got="config.data.judge=()", fix="set select.every=0"
        )
    if config.select.split == "test":
        raise UserError("config.select.split is the test split", expected="val, or another that no result rests on")
    if make_objective(config, parts).judged == "masks":
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
    return open_split(config.data.dir, config.select.split) if config.select.every else None


def value(config: ConfigDict, scores: Float[np.ndarray, "n k"] | Predictions, selecting: Split) -> float:
    """Returns the primary metric of scores, or of judged masks; NaN, which is never better, where it is undefined."""
    if isinstance(scores, Predictions):
        return METRICS.get(config.primary_metric)(scores.scores, scores.labels, scores.label_mask).value
    return _metric(config, scores, selecting).value


def _metric(config: ConfigDict, scores: Float[np.ndarray, "n k"], selecting: Split) -> Metric:
    return METRICS.get(config.primary_metric)(scores, *selecting.all_labels())
