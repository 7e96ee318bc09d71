"""Metrics under many weightings of the patients at once: what makes 10,000 resamples cheap.

A kernel gives the metric of the cases repeated by counts [r g] (how often each patient counts), and the metric without
each patient in turn. Metrics in `FAST` have one that sorts or sums over cases once; any other is called in a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Int, Num
import numpy as np

from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.evaluation.statistics import curves, dice, sums
from radnet_jax.evaluation.statistics.sums import Weighted

MetricFunction = Callable[..., Any]
"""(scores [n ...], labels [n ...], label_mask [n ...] or None) -> a Metric, or a number (NaN where undefined)."""

FAST: dict[str, Callable[..., Weighted]] = {
    f.__name__: f
    for f in (
        sums.accuracy,
        sums.balanced_accuracy,
        sums.brier,
        sums.ece,
        sums.f1,
        sums.label_brier,
        sums.label_ece,
        sums.label_f1,
        sums.top_5,
        curves.auprc,
        curves.auroc,
        curves.sensitivity_at_95_specificity,
    )
}

FAST |= {f.__name__: f for f in (dice.dice_per_volume, dice.dice_positives_only, dice.dice_empty_is_one)}
FAST |= {"dice_nnunet": dice.dice_nnunet}


def weighted_metric(
    metric: str | MetricFunction,
    scores: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    label_mask: Num[np.ndarray, "n ..."] | None,
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Weighted:
    """Returns the kernel of a metric: a fast one where there is one, else the plain loop over resamples.

    Args:
      metric: a name in METRICS (an unknown one is refused), or a function like those.
      scores: of one run.
      labels: 0 or 1.
      label_mask: 1 where known, or None.
      group: index of each case's patient.
      n_groups: number of patients.
    """
    if isinstance(metric, str):
        name, metric = metric, METRICS.get(metric)
        if name in FAST:
            # What makes a metric undefined on the split, such as NaN scores, is looked for once.
            undefined = metric(scores, labels, label_mask).reason
            return _undefined(n_groups) if undefined else FAST[name](scores, labels, label_mask, group, n_groups)
    return plain_loop(metric, scores, labels, label_mask, group, n_groups)


def plain_loop(
    metric: MetricFunction,
    scores: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    label_mask: Num[np.ndarray, "n ..."] | None,
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Weighted:
    """Repeats the cases and calls the metric, for every resample and without each patient: any metric, slowly."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    mask = None if label_mask is None else np.asarray(label_mask)

    def of(cases: np.ndarray) -> float:
        result: Any = metric(scores[cases], labels[cases], None if mask is None else mask[cases])
        return float(result.value if isinstance(result, Metric) else result)

    def values(counts: np.ndarray) -> np.ndarray:
        return np.array([of(np.repeat(np.arange(len(group)), row[group])) for row in counts], np.float64)

    def jackknife() -> np.ndarray:
        return np.array([of(np.flatnonzero(group != g)) for g in range(n_groups)], np.float64)

    return Weighted(values, jackknife)


def _undefined(n_groups: int) -> Weighted:
    return Weighted(lambda counts: np.full(len(counts), np.nan), lambda: np.full(n_groups, np.nan))
