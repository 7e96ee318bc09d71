"""Tests of runs that come in pairs: the same seed, split and order of data under two starts.

Pairing pays only where the pairs share something: then what they share cancels in the difference. Runs that only bear
the same number as their seed are not paired; `tests.welch_test` is for these.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

from jaxtyping import Float
import numpy as np
from scipy import stats

from radnet_jax.evaluation.statistics.tests import EquivalenceResult, hedges_factor

REASONS = {
    "one_run": "fewer than two pairs of runs",
    "no_variance": "the difference is the same in all pairs",
    "undefined_metric": "the metric of a run is undefined",
}


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """A t-test of pairs, a minus b; everything past `delta_relative` is NaN where there is a reason (key of REASONS).

    Attributes:
      delta: mean of the differences.
      delta_relative: delta / mean of b.
      hedges_g: delta in standard deviations of the differences, with the small-sample correction; NaN for two pairs.
    """

    n: int
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


def paired_test(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> PairedTest:
    """Student's t-test of the differences of paired runs, two-sided.

    Args:
      a: the metric of each run of one start.
      b: of the other, the i-th paired with the i-th of a.
      level: coverage of the interval of the mean difference.
    """
    return _paired(a, b, level, inflation=1.0)


def nadeau_bengio_test(
    a: Sequence[float], b: Sequence[float], *, n_train: int, n_test: int, level: float = 0.95
) -> PairedTest:
    """The corrected resampled t-test, for pairs over random splits of the same data.

    The training sets of such splits overlap, so their results are alike and the plain t-test finds differences far too
    often. Nadeau and Bengio, Mach. Learn. 52, 2003, section 3: the variance s^2 / n becomes (1 / n + n_test / n_train)
    s^2, still with n - 1 degrees of freedom.

    Args:
      a: the metric of one start on each split.
      b: of the other on the same splits.
      n_train: cases (patients, where these are split) in each training set.
      n_test: in each test set.
      level: coverage of the interval.
    """
    if min(n_train, n_test) < 1:
        raise ValueError(f"n_train and n_test must be positive, got {n_train} and {n_test}")
    return _paired(a, b, level, inflation=1 + len(a) * n_test / n_train)


def tost_paired(a: Sequence[float], b: Sequence[float], margin: float) -> EquivalenceResult:
    """Two one-sided t-tests that the mean difference of paired runs lies inside (-margin, margin); see `tost_welch`."""
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    test = paired_test(a, b)
    if test.reason:
        return EquivalenceResult(margin, math.nan, math.nan, math.nan, test.reason)
    error = test.delta / test.t if test.t else float(np.std(differences(a, b), ddof=1)) / math.sqrt(test.n)
    p_above = float(stats.t.sf((test.delta + margin) / error, test.df))
    p_below = float(stats.t.cdf((test.delta - margin) / error, test.df))
    return EquivalenceResult(margin, max(p_above, p_below), p_above, p_below)


def differences(a: Sequence[float], b: Sequence[float]) -> Float[np.ndarray, " n"]:
    """a minus b, pair by pair."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"pairs need as many values on either side, got {x.shape} and {y.shape}")
    return x - y


def _paired(a: Sequence[float], b: Sequence[float], level: float, inflation: float) -> PairedTest:
    d = differences(a, b)
    n = len(d)
    mean_a, mean_b, delta = (float(np.mean(v)) if n else math.nan for v in (a, b, d))
    relative = delta / mean_b if mean_b else math.nan
    reason = ""
    if np.isnan(d).any():
        reason = "undefined_metric"
    elif n < 2:
        reason = "one_run"
    elif np.ptp(d) <= 1e-12 * np.abs(np.concatenate([a, b])).max():  # differences of decimals differ in the last bit
        reason = "no_variance"
    t = df = p = low = high = g = math.nan
    if not reason:
        sd, df = float(d.std(ddof=1)), float(n - 1)
        error = sd * math.sqrt(inflation / n)
        t = delta / error
        p = float(2 * stats.t.sf(abs(t), df))
        half = float(stats.t.ppf((1 + level) / 2, df)) * error
        low, high = delta - half, delta + half
        if n > 2:
            g = delta / sd * hedges_factor(n - 1)
    return PairedTest(n, mean_a, mean_b, delta, relative, t, df, p, low, high, level, g, reason)
