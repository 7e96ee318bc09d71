"""The area under the ROC curve without resampling: its variance in closed form, and the test of two correlated areas.

DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988, by sorting (Sun and Xu, IEEE Signal Process. Lett. 21, 2014).
Where a patient has several cases the variance is that of Obuchowski, Biometrics 53, 1997, eqs. 3-6, which sums what
DeLong's sums over cases by patient; with one case a patient the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from jaxtyping import Float, Num
import numpy as np
from scipy.special import ndtr, ndtri

from radnet_jax.evaluation.metrics.classification import known_entries
from radnet_jax.evaluation.statistics.curves import placements
from radnet_jax.evaluation.statistics.draws import group_index

REASONS = {
    "one_patient_of_a_class": "all positives, or all negatives, are of one patient",
    "no_variance": "the estimated variance is 0: a perfect separation, or two models that rank all cases alike",
}


@dataclasses.dataclass(frozen=True)
class DelongInterval:
    """An area with its interval; the ends are cut at 0 and 1, and NaN with a reason (key of REASONS, or a metric's)."""

    value: float
    low: float
    high: float
    level: float
    standard_error: float
    n_positive: int
    n_negative: int
    n_groups: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class DelongTest:
    """Two areas on the same cases, a minus b; `p` is two-sided, and NaN with the interval where there is a reason."""

    auroc_a: float
    auroc_b: float
    difference: float
    low: float
    high: float
    level: float
    standard_error: float
    z: float
    p: float
    n_positive: int
    n_negative: int
    n_groups: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class _Areas:
    values: Float[np.ndarray, " m"]
    covariance: Float[np.ndarray, "m m"]
    n_positive: int
    n_negative: int
    n_groups: int
    reason: str


def delong_interval(
    scores: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    level: float = 0.95,
) -> DelongInterval:
    """The area under the ROC curve of one label with its normal interval.

    Args:
      scores: of one label, [n] or [n 1]; higher is more likely.
      labels: 0 or 1.
      label_mask: 1 where known; None: all are.
      groups: the patient of each case; None says that each case is a patient of its own.
      level: coverage, in large samples; with few cases or an area near 1 the bootstrap's BCa covers better.
    """
    return delong_interval_of_mean([scores], labels, label_mask=label_mask, groups=groups, level=level)


def delong_interval_of_mean(
    scores: Sequence[Num[np.ndarray, "n ..."]],
    labels: Num[np.ndarray, "n ..."],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    level: float = 0.95,
) -> DelongInterval:
    """The mean area of several runs on the same cases of one label, with its normal interval over patients.

    Its variance is the mean of all entries of the areas' covariance matrix: the runs see the same patients.

    Args:
      scores: of each run.
      labels: 0 or 1.
      label_mask: 1 where known; None: all are.
      groups: the patient of each case, or None.
      level: coverage, as for `delong_interval`.
    """
    areas = _areas(scores, labels, label_mask, groups)
    value, error = float(areas.values.mean()), math.sqrt(max(areas.covariance.mean(), 0.0))
    reason = areas.reason or ("" if error > 0 else "no_variance")
    half = math.nan if reason else float(ndtri((1 + level) / 2)) * error
    low, high = value - half, value + half
    if not reason:
        low, high = max(low, 0.0), min(high, 1.0)
    return DelongInterval(value, low, high, level, error, areas.n_positive, areas.n_negative, areas.n_groups, reason)


def delong_test(
    scores_a: Num[np.ndarray, "n ..."],
    scores_b: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    level: float = 0.95,
) -> DelongTest:
    """Tests whether two models have the same area under the ROC curve on the same cases of one label.

    The models must be fixed before they see these cases. For a model against the same one with a further input, fitted
    on these cases, the test is not valid (Demler, Pencina and D'Agostino, Stat. Med. 31, 2012).

    Args:
      scores_a: of one model, as for `delong_interval`.
      scores_b: of the other, on the same cases in the same order.
      labels: 0 or 1.
      label_mask: 1 where known; None: all are.
      groups: the patient of each case, or None.
      level: coverage of the interval of the difference.
    """
    areas = _areas([scores_a, scores_b], labels, label_mask, groups)
    a, b = areas.values.tolist()
    c = areas.covariance
    variance = c[0, 0] + c[1, 1] - 2 * c[0, 1]
    # What is left of equal variances after rounding is no variance.
    reason = areas.reason or ("" if variance > 1e-14 * (c[0, 0] + c[1, 1]) else "no_variance")
    error = z = p = low = high = math.nan
    if not reason:
        error = math.sqrt(variance)
        z = (a - b) / error
        p = float(2 * ndtr(-abs(z)))
        half = float(ndtri((1 + level) / 2)) * error
        low, high = a - b - half, a - b + half
    return DelongTest(
        a, b, a - b, low, high, level, error, z, p, areas.n_positive, areas.n_negative, areas.n_groups, reason
    )


def _areas(
    scores: Sequence[np.ndarray],
    labels: np.ndarray,
    label_mask: np.ndarray | None,
    groups: Sequence[Any] | np.ndarray | None,
) -> _Areas:
    columns = [_column(s) for s in scores]
    _, truth, known = known_entries(columns[0], _column(labels), None if label_mask is None else _column(label_mask))
    if truth.shape[1] != 1 or any(c.shape != truth.shape for c in columns):
        raise ValueError(f"scores {[c.shape for c in columns]} and labels {truth.shape} must be of one label: [n]")
    index, n_names = group_index(groups, len(truth))
    cases = known[:, 0]
    positive, index = truth[cases, 0], index[cases]
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    each = [c[cases, 0].astype(np.float64) for c in columns]
    # How many patients have a case, a positive, a negative.
    n_groups, of_positives, of_negatives = (
        int(np.count_nonzero(np.bincount(i, minlength=n_names))) for i in (index, index[positive], index[~positive])
    )
    reason = ""
    if not len(positive):
        reason = "no_cases"
    elif any(np.isnan(s).any() for s in each):
        reason = "nan_scores"
    elif 0 in (n_positive, n_negative):
        reason = "one_class"
    values = np.full(len(each), np.nan)
    covariance = np.full((len(each), len(each)), np.nan)
    if not reason:
        parts = [placements(s, positive) for s in each]
        values = np.array([v.sum() for v, _ in parts]) / (2.0 * n_positive * n_negative)
        reason = "one_patient_of_a_class" if min(of_positives, of_negatives) < 2 else ""
    if not reason:
        x = _by_patient([v / (2 * n_negative) for v, _ in parts] - values[:, None], index[positive], n_names)
        y = _by_patient([w / (2 * n_positive) for _, w in parts] - values[:, None], index[~positive], n_names)
        between = n_groups / (n_groups - 1) * x @ y.T / (n_positive * n_negative)
        covariance = of_positives / (of_positives - 1) * x @ x.T / n_positive**2
        covariance += of_negatives / (of_negatives - 1) * y @ y.T / n_negative**2
        covariance += between + between.T
    return _Areas(values, covariance, n_positive, n_negative, n_groups, reason)


def _column(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    return x[:, None] if x.ndim == 1 else x


def _by_patient(values: np.ndarray, index: np.ndarray, n: int) -> Float[np.ndarray, "m n"]:
    return np.stack([np.bincount(index, row, n) for row in values])
