"""What a comparison could have found: the smallest difference that is detected with a given power."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math

import numpy as np
from scipy import optimize, special, stats

from radnet_jax.evaluation.statistics.tests import Fixed, spread, undefined_reason

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def welch_power(delta: float, error: float, df: float, alpha: float) -> float:
    """Probability that a two-sided t-test, Welch's or one-sample, at `alpha` finds a true difference `delta`.

    The tails of the noncentral t distribution, as an integral over the estimated standard deviation:
    E[Phi(shift - c s) + Phi(-shift - c s)] with df s^2 ~ chi^2(df). (`scipy.stats.nct` gives NaN at small df.)
    """
    critical = stats.t.isf(alpha / 2, df)
    shift = delta / error
    root = math.sqrt(df)
    # chi(df) / sqrt(df) outside these ends adds less than 1e-12; Phi goes from 1 to 0 within 9 / c of shift / c.
    low, high = stats.chi.ppf([1e-13, 1 - 1e-13], df) / root
    ends = np.clip([low, (shift - 9) / critical, (shift + 9) / critical, high], low, high)
    total = 0.0
    for left, right in itertools.pairwise(ends):
        s = left + (right - left) * (_NODES + 1) / 2
        tails = special.ndtr(shift - critical * s) + special.ndtr(-shift - critical * s)
        total += (right - left) / 2 * float(_WEIGHTS @ (tails * stats.chi.pdf(s * root, df) * root))
    return total


def smallest_detectable_welch(
    a: Sequence[float], b: Sequence[float], *, alpha: float, power: float = 0.8, fixed: Fixed = None
) -> float:
    """The true difference that `tests.welch_test` finds with `power`, at the spread and number of these runs.

    Args:
      a: the metric of each run of one start.
      b: of the other.
      alpha: two-sided level, corrected for the family.
      power: probability of finding it.
      fixed: the side whose value no seed varies: the test is then the one-sample t-test of the other.

    Returns:
      The difference in the metric's unit; NaN where the test is undefined.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if undefined_reason(x, y, fixed):
        return math.nan
    return smallest_detectable_t(*spread(x, y, fixed), alpha=alpha, power=power)


def smallest_detectable_t(error: float, df: float, *, alpha: float, power: float = 0.8) -> float:
    """The true difference that a two-sided t-test with this standard error finds with `power`."""
    high = float(stats.t.isf(alpha / 2, df) + stats.t.ppf(power, df)) * error
    while welch_power(high, error, df, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda d: welch_power(d, error, df, alpha) - power, 0.0, high, xtol=1e-12 * high))


def seeds_needed(
    delta: float, sd_a: float, sd_b: float, *, alpha: float, power: float = 0.8, most: int = 10_000
) -> int | None:
    """The least number of seeds of each start with which Welch's test finds a true difference with `power`.

    Args:
      delta: the difference that matters, in the metric's unit; its sign does not count.
      sd_a: standard deviation over seeds of one start, as known or guessed beforehand.
      sd_b: of the other.
      alpha: two-sided level, corrected for the family.
      power: probability of finding it.
      most: where to give up.

    Returns:
      Seeds of each start, at least 2; None where more than `most` are needed.
    """
    if not delta or min(sd_a, sd_b) < 0 or not sd_a + sd_b > 0:
        raise ValueError(f"delta must not be 0, spreads not below 0 nor both 0; got {delta}, {sd_a}, {sd_b}")

    def found(n: int) -> bool:
        va, vb = sd_a**2 / n, sd_b**2 / n
        df = (va + vb) ** 2 / ((va**2 + vb**2) / (n - 1))
        return welch_power(abs(delta), math.sqrt(va + vb), df, alpha) >= power

    low, high = 1, 2  # power rises with n
    while not found(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def smallest_detectable_bootstrap(standard_error: float, *, alpha: float, power: float = 0.8) -> float:
    """The true difference that the paired bootstrap finds with `power` over these patients: (z + z') x its error."""
    return float((stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) * standard_error)
