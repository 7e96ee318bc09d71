"""Metrics of ranked scores, under many weightings of the patients: sorted once, then a few additions a case."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from jaxtyping import Bool, Int, Num
import numpy as np
from scipy import sparse

from radnet_jax.evaluation.metrics.classification import known_entries
from radnet_jax.evaluation.statistics.sums import Weighted, mean_of_defined, ratio

_JACKKNIFE_CELLS = 2**22


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


def auroc(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    return _over_labels(_binary_auroc, scores, labels, label_mask, group, n_groups)


def auprc(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    return _over_labels(_binary_auprc, scores, labels, label_mask, group, n_groups)


def sensitivity_at_95_specificity(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    return _over_labels(_binary_sensitivity, scores, labels, label_mask, group, n_groups)


def _over_labels(
    binary: Callable[..., Weighted],
    scores: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray | None,
    group: np.ndarray,
    n_groups: int,
) -> Weighted:
    """The mean over the labels that have both classes; one that has not on the whole split has not in any resample."""
    scores, truth, known = known_entries(scores, labels, label_mask)
    columns = [
        binary(scores[m, j], truth[m, j], group[m], n_groups)
        for j, m in enumerate(known.T)
        if 0 < truth[m, j].sum() < m.sum()
    ]
    return Weighted(
        lambda counts: mean_of_defined(np.stack([column(counts) for column in columns])),
        lambda: mean_of_defined(np.stack([column.jackknife() for column in columns])),
    )


@dataclasses.dataclass(frozen=True)
class _Sorted:
    """Sorted cases of one label, cut so that a resample needs few additions.

    The negatives are cut wherever a positive stands between two of them. Positives that see the same negatives below
    and the same up to them are one row, or those of one score where each score must be seen.

    Attributes:
      runs: counts [g r] -> weight of the negatives from each cut to the next.
      rows: counts [g r] -> weight of each row of positives.
      low: the cut below which a row's positives see the negatives below them.
      high: likewise with the negatives that equal them.
    """

    runs: sparse.csr_array
    rows: sparse.csr_array
    low: Int[np.ndarray, " p"]
    high: Int[np.ndarray, " p"]

    def weights(self, counts: Int[np.ndarray, "r g"]) -> tuple[np.ndarray, np.ndarray]:
        """Weight of the negatives below each cut [m+1 r] and of each row of positives [p r], whole numbers.

        int32 would hold the sum of a billion cases.
        """
        by_patient = np.ascontiguousarray(counts.T, np.int32)
        below = np.zeros((self.runs.shape[0] + 1, len(counts)), np.int32)
        np.cumsum(self.runs @ by_patient, axis=0, dtype=np.int32, out=below[1:])
        return below, self.rows @ by_patient


def _sort(scores: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int, *, each_score: bool) -> _Sorted:
    negatives, positives = np.flatnonzero(~positive), np.flatnonzero(positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    positives = positives[np.argsort(scores[positives], kind="stable")]
    below = np.searchsorted(scores[negatives], scores[positives], "left")
    up_to = np.searchsorted(scores[negatives], scores[positives], "right")
    cuts = np.unique(np.concatenate([below, up_to, [0, len(negatives)]]))
    new = (np.diff(below, prepend=-1) > 0) | (np.diff(up_to, prepend=-1) > 0)
    if each_score:
        new |= np.diff(scores[positives], prepend=-np.inf) > 0
    first = np.flatnonzero(new)
    return _Sorted(
        _sums_of(group[negatives], cuts, n_groups),
        _sums_of(group[positives], np.append(first, len(positives)), n_groups),
        np.searchsorted(cuts, below[first]),
        np.searchsorted(cuts, up_to[first]),
    )


def _sums_of(group: np.ndarray, cuts: np.ndarray, n_groups: int) -> sparse.csr_array:
    """A matrix of whole numbers whose product with counts [g r] sums them over the cases from each cut to the next."""
    return sparse.csr_array((np.ones(len(group), np.int32), group, cuts), shape=(len(cuts) - 1, n_groups))


def _binary_auroc(scores: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int) -> Weighted:
    """Mann and Whitney's U; ties count half. Whole numbers, so sums are exact and equal scores stay equal."""
    sorted_ = _sort(scores, positive, group, n_groups, each_score=False)

    def values(counts: np.ndarray) -> np.ndarray:
        below, weight = sorted_.weights(counts)
        twice_u = np.einsum("pr,pr->r", weight, below[sorted_.low] + below[sorted_.high], dtype=np.float64)
        return ratio(twice_u, 2.0 * weight.sum(axis=0) * below[-1])

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
        return ratio(twice_u, 2.0 * n_positive * n_negative)

    return Weighted(values, jackknife)


def _binary_auprc(scores: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int) -> Weighted:
    """Average precision: each row of positives with the precision at its score, equal scores called together."""
    sorted_ = _sort(scores, positive, group, n_groups, each_score=True)

    def values(counts: np.ndarray) -> np.ndarray:
        below, weight = sorted_.weights(counts)
        true = np.cumsum(weight[::-1], axis=0)[::-1]
        called = true + (below[-1] - below[sorted_.low])
        value = ratio((weight * np.divide(true, np.maximum(called, 1))).sum(axis=0), true[0])
        return np.where(below[-1] > 0, value, np.nan)

    return Weighted(values, lambda: _by_counts(values, n_groups))


def _binary_sensitivity(scores: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int) -> Weighted:
    """The highest share of positives called at a score with 95 % of the negatives below it; 0 where there is none."""
    sorted_ = _sort(scores, positive, group, n_groups, each_score=True)

    def values(counts: np.ndarray) -> np.ndarray:
        below, weight = sorted_.weights(counts)
        true = np.cumsum(weight[::-1], axis=0)[::-1]
        enough = below[sorted_.low] / np.maximum(below[-1], 1) >= 0.95
        value = ratio(np.where(enough, true, 0).max(axis=0), true[0])
        return np.where(below[-1] > 0, value, np.nan)

    return Weighted(values, lambda: _by_counts(values, n_groups))


def _by_counts(values: Callable[[np.ndarray], np.ndarray], n_groups: int) -> np.ndarray:
    """The jackknife by leaving each patient out in turn, for metrics without a closed form."""
    rows = max(1, _JACKKNIFE_CELLS // n_groups)
    blocks = []
    for begin in range(0, n_groups, rows):
        left_out = np.arange(begin, min(begin + rows, n_groups))
        counts = np.ones((n_groups, len(left_out)), np.int32)
        counts[left_out, np.arange(len(left_out))] = 0
        blocks.append(values(counts.T))
    return np.concatenate(blocks)
