"""Bootstrap over patients: the variance that comes from which patients happened to be in the test split.

Patients are drawn with replacement and bring all their cases along, so that many slices of one patient do not pass for
independent evidence; on request within strata, whose sizes are then the same in every resample. A resample is a vector
of counts, how often each patient was drawn; metrics are evaluated with these counts as weights, which gives what the
metric gives on the repeated cases. Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile interval
ch. 13, BCa ch. 14.3. Davison and Hinkley, Bootstrap Methods and their Application, 1997: strata ch. 3.2 and 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from jaxtyping import Float, Int, Num
import numpy as np
from scipy.special import ndtr, ndtri

from radnet_jax.evaluation.statistics.draws import group_index, resample_counts, stratum_index
from radnet_jax.evaluation.statistics.weighted import MetricFunction, lacking, patients_by_class, weighted_metric

Runs = slice | Sequence[int]
METHODS = ("bca", "percentile")
REASONS = {
    "undefined_metric": "the metric is undefined on the split",
    "one_group": "all cases are of one patient",
    "undefined_resamples": "the metric is undefined in more than 5 % of the resamples",
}
_ROUNDING = 1e-12
_MAX_UNDEFINED = 0.05  # beyond this share the tails, which are the interval, would be a selection


@dataclasses.dataclass(frozen=True)
class Interval:
    """A metric with its interval over patients.

    Attributes:
      value: the metric on the split itself.
      low: lower end; NaN with a reason.
      high: upper end; NaN with a reason.
      level: coverage asked for, e.g. 0.95.
      method: "bca" or "percentile": what was used. BCa falls back to percentile where the acceleration is undefined
        (the metric is undefined without one of the patients).
      standard_error: standard deviation of the resampled values.
      n_groups: patients.
      n_resamples: resamples drawn.
      n_undefined: of these, resamples without a defined value; the interval is over the others.
      reason: key of REASONS, or empty.
      n_partial: resamples without a patient of a class that a label needs: the mean over labels leaves it out there,
        so that it is not the same mean in all resamples. They are in the interval.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    standard_error: float
    n_groups: int
    n_resamples: int
    n_undefined: int
    reason: str = ""
    n_partial: int = 0


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """The difference of two starts on the same patients, a minus b; `p` is two-sided, its least value 2 / (B + 1).

    The rest is as in `Interval`.
    """

    difference: float
    low: float
    high: float
    level: float
    p: float
    standard_error: float
    n_groups: int
    n_resamples: int
    n_undefined: int
    reason: str = ""
    n_partial: int = 0


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A metric of m runs on the same cases, in the same resamples of the patients.

    Attributes:
      points: the metric on the split itself, by run.
      values: in each of the b resamples; NaN where a resample leaves it undefined.
      jackknife: without each of the g patients; NaN where it was not asked for.
      n_groups: g.
      stratum: index of each patient's stratum.
      n_partial: resamples that lack a label which the metric on the split has.
    """

    points: Float[np.ndarray, " m"]
    values: Float[np.ndarray, "m b"]
    jackknife: Float[np.ndarray, "m g"]
    n_groups: int
    stratum: Int[np.ndarray, " g"]
    n_partial: int = 0


def resample(
    metric: str | MetricFunction,
    scores: Sequence[Num[np.ndarray, "n ..."]],
    labels: Num[np.ndarray, "n ..."],
    *,
    groups: Sequence[Any] | np.ndarray | None,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    strata: Sequence[Any] | np.ndarray | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    jackknife: bool = True,
) -> Resampled:
    """Evaluates the metric of each run in the same resamples.

    Equal `groups`, `strata`, `n_resamples` and `seed` give the same resamples, so the values of two calls can be
    paired. Without `jackknife` there can be no BCa interval; a metric with no fast path costs one call a patient less.
    """
    lengths = [len(s) for s in scores] + ([] if label_mask is None else [len(label_mask)])
    if any(n != len(labels) for n in lengths):
        raise ValueError(f"scores and mask of {lengths} cases for labels of {len(labels)}")
    index, n_groups = group_index(groups, len(labels))
    stratum = stratum_index(strata, index, n_groups)
    kernels = [weighted_metric(metric, s, labels, label_mask, index, n_groups) for s in scores]
    once = np.ones((1, n_groups), np.int32)
    lacks = lacking(patients_by_class(metric, labels, label_mask, index, n_groups))
    blocks, n_partial = [], 0
    for counts in resample_counts(n_groups, n_resamples, seed, stratum):
        blocks.append(np.stack([kernel(counts) for kernel in kernels]))
        n_partial += int(lacks(counts).sum())
    without = [kernel.jackknife() if jackknife else np.full(n_groups, np.nan) for kernel in kernels]
    return Resampled(
        points=np.array([kernel(once)[0] for kernel in kernels]),
        values=np.concatenate(blocks, axis=1),
        jackknife=np.stack(without),
        n_groups=n_groups,
        stratum=stratum,
        n_partial=n_partial,
    )


def count_patients(
    metric: str | MetricFunction,
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None,
    groups: Sequence[Any] | np.ndarray | None,
) -> Int[np.ndarray, "c k"]:
    """How many patients have a case of each class that a label needs to enter the metric's mean (see `lacking`)."""
    counts: np.ndarray = patients_by_class(metric, labels, label_mask, *group_index(groups, len(labels))).sum(axis=1)
    return counts


def percentile_interval(values: Float[np.ndarray, " b"], level: float) -> tuple[float, float]:
    """The central `level` of the resampled values (Efron and Tibshirani, eq. 13.5)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca_interval(
    values: Float[np.ndarray, " b"],
    value: float,
    jackknife: Float[np.ndarray, " g"],
    level: float,
    stratum: Int[np.ndarray, " g"] | None = None,
) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval (Efron and Tibshirani, eqs. 14.9-14.15).

    Args:
      values: the metric in each resample.
      value: the metric on the split.
      jackknife: the metric without each patient.
      level: coverage.
      stratum: index of each patient's stratum; the acceleration is then that of several samples (Davison and Hinkley,
        eq. 5.25). None: one.

    Returns:
      None where it is undefined: a jackknife value is NaN, or every resample lies on one side of `value`.
    """
    below = ((values < value).mean() + (values <= value).mean()) / 2  # ties half, as the metric can be discrete
    if not 0 < below < 1 or np.isnan(jackknife).any():
        return None
    bias = ndtri(below)
    stratum = np.zeros(len(jackknife), np.int64) if stratum is None else stratum
    n = np.bincount(stratum)
    d = (np.bincount(stratum, jackknife) / np.maximum(n, 1))[stratum] - jackknife
    d *= ((n - 1) / np.maximum(n, 1))[stratum]  # the empirical influence by the number of patients
    spread = (d**2).sum()
    acceleration = (d**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(values, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def interval_of_mean(r: Resampled, runs: Runs, *, level: float = 0.95, method: str = "bca") -> Interval:
    """The interval over patients of the metric's mean over some of the runs (an index into the first axis)."""
    value = float(r.points[runs].mean())
    values = r.values[runs].mean(axis=0)
    defined, reason = _defined(values, r.n_groups, value)
    low = high = error = float("nan")
    if not reason:
        error = float(np.std(defined, ddof=1))
        bca = None
        if method == "bca":
            bca = bca_interval(defined, value, r.jackknife[runs].mean(axis=0), level, r.stratum)
        method = "percentile" if bca is None else "bca"
        low, high = percentile_interval(defined, level) if bca is None else bca
    n, n_undefined = len(values), len(values) - len(defined)
    return Interval(value, low, high, level, method, error, r.n_groups, n, n_undefined, reason, r.n_partial)


def bootstrap_interval(
    metric: str | MetricFunction,
    scores: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    n_resamples: int = 10_000,
    method: str = "bca",
    strata: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A metric of one run with its interval over patients.

    Args:
      metric: a name in METRICS, or a function (scores, labels, label_mask or None) -> a number or a Metric. Names of
        `weighted.FAST` are fast, others are called once a resample, and for BCa once a patient.
      scores: of the run; a function of one's own may take any array with a row for each case.
      labels: 0 or 1, likewise.
      label_mask: 1 where the label is known; None: all are.
      groups: the patient of each case; None says that each case is a patient of its own. Has no default: forgetting
        it makes intervals too narrow.
      n_resamples: B.
      method: "bca" or "percentile".
      strata: the stratum of each case, the same for all cases of a patient; None: all in one.
      level: coverage.
      seed: of the draws.

    Returns:
      The interval; NaN ends with a reason where there is none.

    Raises:
      UserError: an unknown metric; a patient in two strata.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(f"level {level} must lie in (0, 1), n_resamples {n_resamples} be positive")
    r = resample(
        metric,
        [scores],
        labels,
        groups=groups,
        label_mask=label_mask,
        strata=strata,
        n_resamples=n_resamples,
        seed=seed,
        jackknife=method == "bca",
    )
    return interval_of_mean(r, slice(None), level=level, method=method)


def paired_difference(r: Resampled, a: Runs, b: Runs, *, level: float = 0.95) -> PairedDifference:
    """The difference of two starts, a minus b, in each resample: mean over the runs of a minus mean over those of b.

    Args:
      r: all runs in the same resamples.
      a: index of the runs of one start.
      b: of the other.
      level: coverage of the percentile interval, e.g. 1 - alpha / m.
    """
    difference = float(r.points[a].mean() - r.points[b].mean())
    values = r.values[a].mean(axis=0) - r.values[b].mean(axis=0)
    values[np.abs(values) < _ROUNDING] = 0.0  # means over 3 and 4 equal runs differ in the last bit
    defined, reason = _defined(values, r.n_groups, difference)
    low = high = error = p = float("nan")
    if not reason:
        error = float(np.std(defined, ddof=1))
        low, high = percentile_interval(defined, level)
        p = bootstrap_p(defined)
    n, n_undefined = len(values), len(values) - len(defined)
    return PairedDifference(difference, low, high, level, p, error, r.n_groups, n, n_undefined, reason, r.n_partial)


def paired_bootstrap(
    metric: str | MetricFunction,
    scores_a: Sequence[Num[np.ndarray, "n k"]],
    scores_b: Sequence[Num[np.ndarray, "n k"]],
    labels: Num[np.ndarray, "n k"],
    *,
    groups: Sequence[Any] | np.ndarray | None,
    label_mask: Num[np.ndarray, "n k"] | None = None,
    strata: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compares two starts on the same patients: in each resample the metric's mean over the runs of a, minus over b's.

    Args:
      metric: as for `bootstrap_interval`.
      scores_a: of each run (seed) of one start.
      scores_b: of each run of the other, on the same cases in the same order.
      labels: 0 or 1.
      groups: the patient of each case, or None (see `bootstrap_interval`).
      label_mask: 1 where known; None: all are.
      strata: as for `bootstrap_interval`.
      level: coverage of the interval.
      n_resamples: B.
      seed: of the draws.
    """
    r = resample(
        metric,
        [*scores_a, *scores_b],
        labels,
        groups=groups,
        label_mask=label_mask,
        strata=strata,
        n_resamples=n_resamples,
        seed=seed,
        jackknife=False,
    )
    return paired_difference(r, slice(0, len(scores_a)), slice(len(scores_a), None), level=level)


def bootstrap_p(values: Float[np.ndarray, " b"]) -> float:
    """Two-sided p of "no difference": twice the one-sided p of the smaller tail, (tail + 1) / (B + 1), at most 1.

    Davison and Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11; the least value is 2 / (B + 1). Where
    p < alpha, the percentile interval at 1 - alpha leaves 0 out; the other way round this holds up to one resample.
    """
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(values) + 1))


def _defined(values: Float[np.ndarray, " b"], n_groups: int, value: float) -> tuple[Float[np.ndarray, " d"], str]:
    defined = values[~np.isnan(values)]
    if np.isnan(value):
        return defined, "undefined_metric"
    if n_groups < 2:
        return defined, "one_group"
    if len(values) - len(defined) > _MAX_UNDEFINED * len(values):
        return defined, "undefined_resamples"
    return defined, ""
