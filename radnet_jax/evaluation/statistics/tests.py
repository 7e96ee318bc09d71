"""Tests between two groups of runs: the variance that comes from the seeds.

Where the seed varies both groups this is Welch's test. Where it varies one of them only (`fixed` names the other), that
group is tested against the one value of the other: the one-sample t-test, df = n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Literal

import numpy as np
from scipy import special, stats

Fixed = Literal["a", "b"] | None
REASONS = {
    "one_run": "fewer than two runs in a group",
    "no_variance": "the runs of each group are all equal",
    "undefined_metric": "the metric of a run is undefined",
}


@dataclasses.dataclass(frozen=True)
class WelchResult:
    """The test of a against b; everything past the means is NaN where there is a reason (key of REASONS)."""

    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    delta: float
    delta_relative: float
    t: float
    df: float
    p: float
    low: float
    high: float
    level: float
    hedges_g: float
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class JointResult:
    """The test of a difference over several sources of variance at once; `p_equivalent` is that of the TOST."""

    standard_error: float
    df: float
    p: float
    low: float
    high: float
    level: float
    p_equivalent: float


@dataclasses.dataclass(frozen=True)
class EquivalenceResult:
    """Two one-sided tests: `p` is the larger of both, so p < alpha says that the difference lies inside the margin."""

    margin: float
    p: float
    p_above: float
    p_below: float
    reason: str = ""


def spread(a: np.ndarray, b: np.ndarray, fixed: Fixed = None) -> tuple[float, float]:
    """Standard error of the difference of two means and its degrees of freedom (Welch-Satterthwaite).

    A fixed side has no error of its own: what is left is the other's, with n - 1 degrees of freedom.
    """
    if fixed:
        runs = b if fixed == "a" else a
        return math.sqrt(runs.var(ddof=1) / len(runs)), float(len(runs) - 1)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return math.sqrt(va + vb), float(df)


def undefined_reason(a: np.ndarray, b: np.ndarray, fixed: Fixed = None) -> str:
    """Why the test of a against b is undefined; empty where it is defined."""
    if np.isnan(a).any() or np.isnan(b).any():
        return "undefined_metric"
    if len(a) < (1 if fixed == "a" else 2) or len(b) < (1 if fixed == "b" else 2):
        return "one_run"
    held = {"a": a, "b": b}.get(fixed or "", a[:0])
    if len(set(held.tolist())) > 1:
        raise ValueError(f"side {fixed} is not one fixed value: {held.tolist()}")
    return "no_variance" if _equal(a) and _equal(b) else ""


def _equal(x: np.ndarray) -> bool:
    """Whether all runs are equal; means of 3 and of 4 equal runs differ in the last bit, which is no variance."""
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def hedges_factor(df: int) -> float:
    """What takes the bias from a standardised difference whose SD has `df` >= 2 degrees of freedom (Hedges 1981)."""
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def hedges_g(a: np.ndarray, b: np.ndarray, fixed: Fixed = None) -> float:
    """Standardised difference with the small-sample correction (Hedges, J. Educ. Stat. 6, 1981), pooled SD.

    Where one side is fixed, the SD is the other's. NaN for two runs against a fixed value: the correction needs three.
    """
    varying = [x for name, x in (("a", a), ("b", b)) if name != fixed]
    m = sum(len(x) - 1 for x in varying)
    if m < 2:
        return math.nan
    pooled = sum((len(x) - 1) * x.var(ddof=1) for x in varying) / m
    return float(hedges_factor(m) * (a.mean() - b.mean()) / math.sqrt(pooled))


def welch_test(a: Sequence[float], b: Sequence[float], *, level: float = 0.95, fixed: Fixed = None) -> WelchResult:
    """Welch's two-sided t-test of two groups of runs with unequal variances; one-sample where one side is fixed.

    Args:
      a: the metric of each run of one start.
      b: of the other.
      level: coverage of the interval of the difference of means.
      fixed: the side whose value no seed varies; the other's runs are tested against it. Two runs suffice for the
        test; Hedges' g needs three then.

    Returns:
      Difference absolute and relative (to b), t, df, p, interval and Hedges' g; a reason where they are undefined.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mean_a, mean_b = (float(v.mean()) if len(v) else math.nan for v in (x, y))
    delta = mean_a - mean_b
    relative = delta / mean_b if mean_b else math.nan
    reason = undefined_reason(x, y, fixed)
    t = df = p = low = high = g = math.nan
    if not reason:
        error, df = spread(x, y, fixed)
        t = delta / error
        p = float(2 * stats.t.sf(abs(t), df))
        half = float(stats.t.ppf((1 + level) / 2, df)) * error
        low, high = delta - half, delta + half
        g = hedges_g(x, y, fixed)
    return WelchResult(len(x), len(y), mean_a, mean_b, delta, relative, t, df, p, low, high, level, g, reason)


def tost_welch(a: Sequence[float], b: Sequence[float], margin: float, *, fixed: Fixed = None) -> EquivalenceResult:
    """Two one-sided tests, Welch's or one-sample, that the difference of means lies inside (-margin, margin).

    Schuirmann, J. Pharmacokin. Biopharm. 15, 1987. A difference that is not significant is no evidence of equality;
    this is.

    Args:
      a: the metric of each run of one start.
      b: of the other.
      margin: largest difference that is taken for none, declared beforehand; in the metric's unit, > 0.
      fixed: as for `welch_test`.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    reason = undefined_reason(x, y, fixed)
    if reason:
        return EquivalenceResult(margin, math.nan, math.nan, math.nan, reason)
    error, df = spread(x, y, fixed)
    delta = x.mean() - y.mean()
    p_above = float(stats.t.sf((delta + margin) / error, df))  # against "at most -margin"
    p_below = float(stats.t.cdf((delta - margin) / error, df))  # against "at least margin"
    return EquivalenceResult(margin, max(p_above, p_below), p_above, p_below)


def joint_test(
    delta: float, errors: Sequence[tuple[float, float]], margin: float, *, level: float = 0.95
) -> JointResult:
    """The t-test of a difference whose error has several independent sources, such as seeds and patients.

    The variances add, se^2 = sum se_i^2, and so does what is not known of them: df = se^4 / sum(se_i^4 / df_i)
    (Satterthwaite, Biometrics Bull. 2, 1946). The test over one source alone takes the others for naught: the larger
    of such p does not keep the level, because all of them share one difference.

    Args:
      delta: the difference.
      errors: (standard error, degrees of freedom) of each source; not all errors 0.
      margin: of the equivalence, > 0.
      level: coverage of the interval.
    """
    variances = [(error**2, df) for error, df in errors]
    total = sum(v for v, _ in variances)
    df = total**2 / sum(v**2 / df for v, df in variances)
    error = math.sqrt(total)
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    p = float(2 * stats.t.sf(abs(delta) / error, df))
    p_equivalent = float(stats.t.cdf((abs(delta) - margin) / error, df))
    return JointResult(error, df, p, delta - half, delta + half, level, p_equivalent)


def inside_margin(low: float, high: float, margin: float) -> bool:
    """Whether an interval of a difference lies inside (-margin, margin): equivalence by interval. NaN: False."""
    return -margin < low and high < margin
