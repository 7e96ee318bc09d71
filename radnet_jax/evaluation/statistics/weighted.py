"""Metrics under many weightings of the patients at once: what makes 10,000 resamples cheap.

Each function returns a kernel: counts [r g] (how often each patient counts) -> values [r], equal to the metric of the
cases repeated so often, and the metric without each patient in turn. What does not depend on the counts, above all
sorting, is done once; then a resample costs a few additions a case.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from jaxtyping import Bool, Float, Int, Num
import numpy as np
from scipy import sparse

from radnet_jax.evaluation.metrics import METRICS, Metric
from radnet_jax.evaluation.metrics.classification import is_correct, known_entries

MetricFunction = Callable[..., Any]
"""(scores [n ...], labels [n ...], label_mask [n ...] or None) -> a Metric, or a number (NaN where undefined)."""


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A metric of one run as a function of the patients' weights.

    Attributes:
      values: counts [r g], whole numbers -> the metric of the cases repeated so often [r]; NaN where it is undefined.
        Fastest where the counts of a patient lie together in memory, as in the blocks of `bootstrap.resample_counts`.
      jackknife: -> the metric without each of the patients [g].
    """

    values: Callable[[Int[np.ndarray, "r g"]], Float[np.ndarray, " r"]]
    jackknife: Callable[[], Float[np.ndarray, " g"]]

    def __call__(self, counts: Int[np.ndarray, "r g"]) -> Float[np.ndarray, " r"]:
        return self.values(counts)


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
        METRICS.get(metric)
        if metric in _FAST:
            return _FAST[metric](scores, labels, label_mask, group, n_groups)
        metric = METRICS.get(metric)
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


def of_sums(
    terms: Num[np.ndarray, "n t"],
    finish: Callable[[Float[np.ndarray, "r t"]], Float[np.ndarray, " r"]],
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Weighted:
    """The kernel of a metric that is a function of sums over cases, as accuracy is: one matrix product a block.

    Args:
      terms: what each case adds to each sum.
      finish: sums -> metric, row by row; NaN where it is undefined.
      group: index of each case's patient.
      n_groups: number of patients.
    """
    by_patient = np.stack([np.bincount(group, column, n_groups) for column in np.asarray(terms, np.float64).T], axis=1)

    def values(counts: np.ndarray) -> np.ndarray:
        return finish(counts.astype(np.float64) @ by_patient)

    return Weighted(values, lambda: finish(by_patient.sum(axis=0) - by_patient))


def placements(
    scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " q"]]:
    """Twice how many negatives lie below each positive, and twice how many positives lie above each negative.

    An equal score counts half, hence twice: the results are whole. By sorting, in O(n log n), as the midranks of Sun
    and Xu, IEEE Signal Process. Lett. 21, 2014. Both stand in the order of the cases; either sums to twice Mann and
    Whitney's U.
    """
    of_positives, of_negatives = scores[positive], scores[~positive]
    sorted_positives, sorted_negatives = np.sort(of_positives), np.sort(of_negatives)
    below = np.searchsorted(sorted_negatives, of_positives, "left")
    up_to = np.searchsorted(sorted_negatives, of_positives, "right")
    not_above = np.searchsorted(sorted_positives, of_negatives, "left")
    not_above += np.searchsorted(sorted_positives, of_negatives, "right")
    return below + up_to, 2 * len(of_positives) - not_above


def _accuracy(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    correct, known, reason = is_correct(scores, labels, label_mask)
    if reason:
        return _undefined(n_groups)
    return of_sums(np.stack([correct, known], axis=1), lambda sums: _ratio(sums[:, 0], sums[:, 1]), group, n_groups)


def _auroc(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    if np.isnan(scores[known]).any():
        return _undefined(n_groups)
    # A label with one class on the whole split has one class in every resample: left out, as the metric leaves it out.
    both = [0 < truth[m, j].sum() < m.sum() for j, m in enumerate(known.T)]
    columns = [_binary_auroc(scores[m, j], truth[m, j], group[m], n_groups) for j, m in enumerate(known.T) if both[j]]
    if not columns:
        return _undefined(n_groups)

    def mean(values: list[np.ndarray]) -> np.ndarray:
        total, defined = np.zeros(len(values[0])), np.zeros(len(values[0]))
        for value in values:
            ok = ~np.isnan(value)
            total[ok] += value[ok]
            defined += ok
        return _ratio(total, defined)

    return Weighted(
        lambda counts: mean([column(counts) for column in columns]),
        lambda: mean([column.jackknife() for column in columns]),
    )


def _binary_auroc(scores: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int) -> Weighted:
    """Mann-Whitney's U from the weights of runs of cases; ties count half.

    The negatives are cut wherever a positive stands between two of them. Positives that see the same negatives below
    and the same up to them are one row. What remains for a resample: the weight of each run and of each row, which is a
    sparse matrix of ones times the counts, a cumulative sum over the runs, and one product. Counts are whole numbers,
    so every sum is exact in float64 and equal scores stay equal.
    """
    negatives, positives = np.flatnonzero(~positive), np.flatnonzero(positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    positives = positives[np.argsort(scores[positives], kind="stable")]
    below = np.searchsorted(scores[negatives], scores[positives], "left")
    up_to = np.searchsorted(scores[negatives], scores[positives], "right")
    cuts = np.unique(np.concatenate([below, up_to, [0, len(negatives)]]))
    first = np.flatnonzero((np.diff(below, prepend=-1) > 0) | (np.diff(up_to, prepend=-1) > 0))
    runs = _sums_of(group[negatives], cuts, n_groups)
    rows = _sums_of(group[positives], np.append(first, len(positives)), n_groups)
    low, high = np.searchsorted(cuts, below[first]), np.searchsorted(cuts, up_to[first])

    def values(counts: np.ndarray) -> np.ndarray:
        by_patient = np.ascontiguousarray(counts.T, np.int32)
        cumulative = np.zeros((len(cuts), len(counts)), np.int32)  # a sum of a billion cases would fit
        np.cumsum(runs @ by_patient, axis=0, dtype=np.int32, out=cumulative[1:])
        weight = rows @ by_patient
        twice_u = np.einsum("pr,pr->r", weight, cumulative[low] + cumulative[high], dtype=np.float64)
        return _ratio(twice_u, 2.0 * weight.sum(axis=0) * cumulative[-1])

    def jackknife() -> np.ndarray:
        """In closed form: U loses what the patient's positives and negatives bring, their own pairs only once."""
        of_positive, of_negative = placements(scores, positive)
        dense = np.unique(scores, return_inverse=True)[1]
        # By this key each patient's cases stand together, sorted by score; ends: where each patient's negatives begin.
        key = group * (dense.max() + 1) + dense
        negative_keys = np.sort(key[~positive])
        ends = np.searchsorted(negative_keys, np.arange(n_groups + 1) * (dense.max() + 1))
        own = np.searchsorted(negative_keys, key[positive], "left") + np.searchsorted(
            negative_keys, key[positive], "right"
        )
        own = np.bincount(group[positive], own - 2 * ends[group[positive]], n_groups)
        twice_u = of_positive.sum() - np.bincount(group[positive], of_positive, n_groups)
        twice_u += own - np.bincount(group[~positive], of_negative, n_groups)
        n_positive = positive.sum() - np.bincount(group[positive], minlength=n_groups)
        n_negative = (~positive).sum() - np.bincount(group[~positive], minlength=n_groups)
        return _ratio(twice_u, 2.0 * n_positive * n_negative)

    return Weighted(values, jackknife)


def _sums_of(group: np.ndarray, cuts: np.ndarray, n_groups: int) -> sparse.csr_array:
    """A matrix of whole numbers whose product with counts [g r] sums them over the cases from each cut to the next."""
    return sparse.csr_array((np.ones(len(group), np.int32), group, cuts), shape=(len(cuts) - 1, n_groups))


def _undefined(n_groups: int) -> Weighted:
    return Weighted(lambda counts: np.full(len(counts), np.nan), lambda: np.full(n_groups, np.nan))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


_FAST: dict[str, Callable[..., Weighted]] = {"accuracy": _accuracy, "auroc": _auroc}
