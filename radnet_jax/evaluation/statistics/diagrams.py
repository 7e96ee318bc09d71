"""Curves for figures, with intervals over patients: a start's ROC curve, and how far to trust its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from jaxtyping import Bool, Float, Int, Num
import numpy as np

from radnet_jax.evaluation.metrics.calibration import bin_of
from radnet_jax.evaluation.metrics.classification import known_entries
from radnet_jax.evaluation.statistics.draws import group_index, resample_counts
from radnet_jax.evaluation.statistics.sums import ratio

GRID = np.linspace(0, 1, 101)


@dataclasses.dataclass(frozen=True)
class RocCurve:
    """Sensitivity by 1 - specificity (at `GRID`), the mean over runs and over labels with both classes.

    Attributes:
      sensitivity: on the split.
      low: lower end of the pointwise interval over patients.
      high: its upper end.
      n_labels: labels in the mean; 0: there is no curve, all of the rest is NaN.
    """

    sensitivity: Float[np.ndarray, " q"]
    low: Float[np.ndarray, " q"]
    high: Float[np.ndarray, " q"]
    n_labels: int


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What happened by what was said, in bins of equal width of the probability; NaN where a bin is empty.

    Attributes:
      said: mean probability of the bin.
      happened: share that happened.
      low: lower end of the pointwise interval of `happened` over patients; NaN in a bin of one patient.
      high: its upper end.
      cases: entries in the bin, of all runs.
    """

    said: Float[np.ndarray, " b"]
    happened: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    cases: Int[np.ndarray, " b"]


def mean_roc(
    scores: Sequence[Num[np.ndarray, "n k"]],
    labels: Num[np.ndarray, "n k"],
    *,
    groups: Sequence[Any] | np.ndarray | None,
    label_mask: Num[np.ndarray, "n k"] | None = None,
    n_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> RocCurve:
    """The ROC curve of a start by vertical averaging (Fawcett, Pattern Recognit. Lett. 27, 2006, section 8.2).

    At each 1 - specificity of the grid the highest sensitivity of a threshold that does not exceed it; equal scores are
    called together, and nothing is interpolated. The intervals are for single points, not a band of the whole curve.

    Args:
      scores: of each run.
      labels: 0 or 1.
      groups: the patient of each case, or None, said aloud.
      label_mask: 1 where known; None: all are.
      n_resamples: of the patients, for the pointwise percentile interval.
      level: its coverage.
      seed: of the draws.
    """
    group, n_groups = group_index(groups, len(labels))
    columns = []
    for run in scores:
        s, truth, known = known_entries(run, labels, label_mask)
        columns += [(s[m, j], truth[m, j], group[m]) for j, m in enumerate(known.T) if 0 < truth[m, j].sum() < m.sum()]
    nothing = np.full(len(GRID), np.nan)
    if not columns or any(np.isnan(s).any() for s, _, _ in columns):
        return RocCurve(nothing, nothing, nothing, 0)
    once = np.ones((1, n_groups), np.int32)
    value = np.mean([_sensitivities(*column, once)[0] for column in columns], axis=0)
    drawn = [
        np.nanmean([_sensitivities(*column, counts) for column in columns], axis=0)
        for counts in resample_counts(n_groups, n_resamples, seed)
    ]
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return RocCurve(value, low, high, len(columns) // len(scores))


def _sensitivities(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, "r g"],
) -> Float[np.ndarray, "r q"]:
    """Sensitivity at each point of the grid in each resample; NaN where a resample has one class only."""
    order = np.argsort(-scores, kind="stable")
    scores, positive, group = scores[order], positive[order], group[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    out = np.full((len(counts), len(GRID)), np.nan)
    for i, row in enumerate(counts):
        weight = row[group]
        true = np.concatenate([[0], np.cumsum(weight * positive)[last]])
        false = np.concatenate([[0], np.cumsum(weight * ~positive)[last]])
        if true[-1] and false[-1]:
            at = np.searchsorted(false, GRID * false[-1] + 1e-9, side="right") - 1
            out[i] = true[at] / true[-1]
    return out


def reliability(
    probability: Sequence[Num[np.ndarray, "n k"]],
    happened: Sequence[Bool[np.ndarray, "n k"]],
    *,
    groups: Sequence[Any] | np.ndarray | None,
    known: Bool[np.ndarray, "n k"] | None = None,
    bins: int = 10,
    n_resamples: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> Reliability:
    """The reliability diagram of a start, its runs pooled (Guo et al., ICML 2017, section 2).

    The intervals are too narrow where few cases of a bin did, or did not, happen, as in the outer bins: of no width
    where none did (docs/statistics.md).

    Args:
      probability: of each run, in [0, 1].
      happened: whether it did, of each run.
      groups: the patient of each case, or None.
      known: which entries count; None: all.
      bins: of equal width.
      n_resamples: of the patients, for the pointwise percentile interval.
      level: its coverage.
      seed: of the draws.
    """
    group, n_groups = group_index(groups, len(probability[0]))
    use = np.ones(probability[0].shape, bool) if known is None else known
    sums = np.zeros((3, n_groups * bins))  # entries, probability, happened; by patient and bin
    for p, y in zip(probability, happened):
        cell = (group[:, None] * bins + bin_of(p, bins))[use]
        for i, weight in enumerate((np.ones(len(cell)), p[use], y[use])):
            sums[i] += np.bincount(cell, weight, n_groups * bins)
    entries, said, did = sums.reshape(3, n_groups, bins)
    drawn = np.concatenate(
        [ratio(counts @ did, counts @ entries) for counts in resample_counts(n_groups, n_resamples, seed)]
    )
    low, high = np.full((2, bins), np.nan)
    several = (entries > 0).sum(axis=0) > 1
    if several.any():
        tails = [(1 - level) / 2, (1 + level) / 2]
        low[several], high[several] = np.nanquantile(drawn[:, several], tails, axis=0)
    total = entries.sum(axis=0)
    return Reliability(ratio(said.sum(axis=0), total), ratio(did.sum(axis=0), total), low, high, total.astype(np.int64))
