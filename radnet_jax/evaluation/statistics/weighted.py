"""Metrics under many weightings of the patients at once: what makes 10,000 resamples cheap.

Each function returns a kernel: counts [r g] (how often each patient counts) -> values [r], equal to the metric of the
cases repeated so often. The part that does not depend on the counts, above all sorting, is done once.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int, Num
import numpy as np

from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.evaluation.metrics.classification import is_correct, known_entries

MetricFunction = Callable[..., Metric]
Weighted = Callable[[Int[np.ndarray, "r g"]], Float[np.ndarray, " r"]]

_CELLS = 2**20  # of a temporary array, so that it stays in the cache


def weighted_metric(
    metric: str | MetricFunction,
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None,
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
        METRICS.get(metric)
        if metric in _FAST:
            return _FAST[metric](scores, labels, label_mask, group, n_groups)
        metric = METRICS.get(metric)
    return plain_loop(metric, scores, labels, label_mask, group, n_groups)


def plain_loop(
    metric: MetricFunction,
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None,
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Weighted:
    """Repeats the cases and calls the metric, for every resample: any metric, slowly."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    mask = np.ones(labels.shape) if label_mask is None else np.asarray(label_mask)

    def kernel(counts: np.ndarray) -> np.ndarray:
        values = []
        for row in counts:
            cases = np.repeat(np.arange(len(group)), row[group])
            values.append(metric(scores[cases], labels[cases], mask[cases]).value)
        return np.asarray(values, np.float64)

    return kernel


def _accuracy(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    correct, known, reason = is_correct(scores, labels, label_mask)
    if reason:
        return _undefined
    hits = np.bincount(group, correct, n_groups)
    cases = np.bincount(group, known, n_groups)

    def kernel(counts: np.ndarray) -> np.ndarray:
        counts = counts.astype(np.float64)
        return _ratio(counts @ hits, counts @ cases)

    return kernel


def _auroc(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    if np.isnan(scores[known]).any():
        return _undefined
    # A label with one class on the whole split has one class in every resample: left out, as the metric leaves it out.
    both = [0 < truth[m, j].sum() < m.sum() for j, m in enumerate(known.T)]
    columns = [_binary_auroc(scores[m, j], truth[m, j], group[m]) for j, m in enumerate(known.T) if both[j]]
    if not columns:
        return _undefined

    def kernel(counts: np.ndarray) -> np.ndarray:
        total, defined = np.zeros(len(counts)), np.zeros(len(counts))
        for column in columns:
            value = column(counts)
            ok = ~np.isnan(value)
            total[ok] += value[ok]
            defined += ok
        return _ratio(total, defined)

    return kernel


def _binary_auroc(scores: np.ndarray, positive: np.ndarray, group: np.ndarray) -> Weighted:
    """The rank sum as cumulative weights of the sorted negatives, read off at each positive; ties count half.

    Counts are whole numbers, so every sum is exact in float64 and equal scores stay equal.
    """
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    negative_group = group[~positive][order]
    below = np.searchsorted(negatives, scores[positive], "left")
    up_to = np.searchsorted(negatives, scores[positive], "right")
    positive_group = group[positive]
    n_negative = len(negatives)

    def kernel(counts: np.ndarray) -> np.ndarray:
        values = np.empty(len(counts))
        rows = max(1, _CELLS // n_negative)
        for begin in range(0, len(counts), rows):
            block = counts[begin : begin + rows]
            cumulative = np.zeros((len(block), n_negative + 1), np.int64)
            np.cumsum(block[:, negative_group], axis=1, out=cumulative[:, 1:])
            weight = block[:, positive_group]
            twice_u = (weight * (cumulative[:, below] + cumulative[:, up_to])).sum(axis=1)
            values[begin : begin + rows] = _ratio(twice_u, 2 * weight.sum(axis=1) * cumulative[:, -1])
        return values

    return kernel


def _undefined(counts: np.ndarray) -> np.ndarray:
    return np.full(len(counts), np.nan)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


_FAST: dict[str, Callable[..., Weighted]] = {"accuracy": _accuracy, "auroc": _auroc}
