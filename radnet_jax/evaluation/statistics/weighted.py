"""Metrics under many weightings of the patients at once: what makes 10,000 resamples cheap.

A kernel gives the metric of the cases repeated by counts [r g] (how often each patient counts), and the metric without
each patient in turn. Metrics in `FAST` have one that sorts or sums over cases once; any other is called in a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Int, Num
import numpy as np

from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.evaluation.metrics.classification import known_entries
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
        dice.dice_empty_is_one,
        dice.dice_nnunet,
        dice.dice_per_volume,
        dice.dice_positives_only,
        curves.auprc,
        curves.auroc,
        curves.sensitivity_at_95_specificity,
    )
}

BOTH, POSITIVE = "both", "positive"
CLASSES_NEEDED = {
    **dict.fromkeys(("auroc", "auprc", "sensitivity_at_95_specificity"), BOTH),
    **dict.fromkeys(("balanced_accuracy", "f1", "label_f1", "dice_positives_only"), POSITIVE),
}
"""Classes of a label without which it leaves the metric's mean over labels; the others need known cases only."""
_CERTAIN = 40  # patients of whom a resample lacks all with a probability below exp(-40)


def patients_by_class(
    metric: str | MetricFunction,
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None,
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Bool[np.ndarray, "c g k"]:
    """Which patients have a case of each class that a label needs to enter the metric's mean: c classes, k labels.

    No class (c = 0) for a metric that needs none, or of which that is not known.
    """
    needed = CLASSES_NEEDED.get(metric, "") if isinstance(metric, str) else ""
    if not needed:
        return np.zeros((0, n_groups, 0), bool)
    _, truth, known = known_entries(labels, labels, label_mask)
    out = np.zeros((2 if needed == BOTH else 1, n_groups, truth.shape[1]), bool)
    for has, cases in zip(out, (truth & known, ~truth & known)):
        np.logical_or.at(has, group, cases)
    return out


def lacking(has: Bool[np.ndarray, "c g k"]) -> Callable[[Int[np.ndarray, "r g"]], Bool[np.ndarray, " r"]]:
    """counts -> whether a resample lacks a label that is in the metric on the split."""
    n = has.sum(axis=1)
    at_risk = (n > 0).all(axis=0) & (n < _CERTAIN)  # by class and label
    rare = has.transpose(0, 2, 1)[at_risk].T.astype(np.float32)
    return lambda counts: (counts.astype(np.float32) @ rare == 0).any(axis=1)


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
