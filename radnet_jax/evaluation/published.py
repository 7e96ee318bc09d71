"""What the published studies did, so that their figures can be reproduced; no verdict of ours rests on any of it.

`radnet_published` (Jonske et al., Comput. Methods Programs Biomed. 261:108634, 2025): populations that were never run,
on a straight line between the results of two corpora of the same source, tested by Welch's test as if they were four
runs. `btl_v1` (Hosseinzadeh Taher et al., DART 2021): Student's t-test of 10 against 10 runs from means and population
SDs. Both without correction for the number of tests. `time_to_convergence` is the first study's.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import math

import numpy as np
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation.compare_results import pairs, seed_row
from radnet_jax.evaluation.comparisons import Comparison
from radnet_jax.evaluation.results import Cell
from radnet_jax.evaluation.verdicts import UNDEFINED

PROTOCOLS = ("default", "radnet_published", "btl_v1")
PUBLISHED = "as published, no verdict"
SMALL, LARGE = "R", "RF"  # the first study's starts: RadNet-1.28M and RadNet-12M
SIZES = (1_281_167, 12_034_617)  # their images, as the study counts them
FACTORS = {"LB": 1.136, "UB": 3.807}  # lower and upper bound of how many of its images one of ImageNet is worth
NOT_REACHED = 100


def synthetic_population(
    small: Sequence[float], large: Sequence[float], factor: float, *, sizes: tuple[float, float] = SIZES
) -> np.ndarray:
    """The first study's "adjusted" runs at `factor` times the smaller corpus: [n of `large`], not data.

    A line through the means of both corpora over their numbers of images, y = m x + c, is read at x = factor * x1. Its
    SD takes the errors of m and c for independent (they are not, which makes it too wide); the residuals are those of
    `large`, rescaled. SDs divide by n.

    Args:
      small: the metric of each run on the smaller corpus.
      large: on the larger one.
      factor: of the smaller corpus' size.
      sizes: images of both.

    Raises:
      UserError: runs of `large` that are all equal: there are no residuals to rescale.
    """
    v1, v2 = np.asarray(small, np.float64), np.asarray(large, np.float64)
    x1, x2 = sizes
    x3 = factor * x1
    y1, y2, s1, s2 = v1.mean(), v2.mean(), v1.std(), v2.std()
    if s2 == 0:
        raise UserError("a synthetic population needs runs that differ", got=f"{len(v2)} equal values of {LARGE}")
    slope, s_slope = (y2 - y1) / (x2 - x1), math.hypot(s1, s2) / (x2 - x1)
    intercept, s_intercept = y2 - slope * x2, math.hypot(s2, s_slope * x2)
    s3 = math.hypot(s_slope * x3, s_intercept)
    return (v2 - y2) / s2 * s3 + slope * x3 + intercept


def radnet_rows(cells: Sequence[Cell], *, alpha: float, margin: float) -> list[Comparison]:
    """Each synthetic population against every real start and against the other, on every metric; uncorrected.

    Raises:
      UserError: no place with runs of both corpora.
    """
    out = []
    for place in dict.fromkeys(c.place for c in cells):
        here = {c.start: c for c in cells if c.place == place}
        small, large = here.get(SMALL), here.get(LARGE)
        if small is None or large is None or small.reason or large.reason or np.ptp(large.values) == 0:
            continue
        made = [
            Cell(place, f"{SMALL} ({bound}-adj.)", tuple(synthetic_population(small.values, large.values, f).tolist()))
            for bound, f in FACTORS.items()
        ]
        tested = [*itertools.product(made[::-1], here.values()), (made[1], made[0])]
        out += [_published(seed_row(a, b, alpha, margin)) for a, b in tested]
    if not out:
        raise UserError(
            "protocol radnet_published interpolates between two starts",
            got=", ".join(sorted({c.start for c in cells})),
            expected=f"{SMALL} and {LARGE} on the same task and metric, with two runs each",
        )
    return out


def btl_rows(cells: Sequence[Cell], *, alpha: float, margin: float, baseline: str) -> list[Comparison]:
    """The second study's test of each pair: Student's, with equal variances, two-sided, uncorrected."""
    out = []
    for a, b in pairs(cells, baseline):
        row = seed_row(a, b, alpha, margin)
        if not row.reason:
            x, y = np.asarray(a.values), np.asarray(b.values)
            test = stats.ttest_ind(x, y, equal_var=True)
            low, high = map(float, test.confidence_interval(1 - alpha))
            t, df, p = float(test.statistic), float(test.df), float(test.pvalue)
            row = dataclasses.replace(
                row, t=t, df=df, p=p, p_seeds=p, low=low, high=high, low_seeds=low, high_seeds=high
            )
        out.append(_published(row))
    return out


def _published(row: Comparison) -> Comparison:
    return dataclasses.replace(row, verdict=UNDEFINED if row.reason else PUBLISHED)


def time_to_convergence(values: Sequence[float], *, last: int = 10, tolerance: float = 0.005) -> int:
    """First epoch, from 0, whose metric lies within `tolerance`, relative, of the mean of the `last` epochs.

    The first study's definition: a single touch counts, whatever comes after. 100 where it is not reached
    by the fifth epoch from the end, also for runs of another length.

    Args:
      values: the metric on val after each epoch.
      last: epochs that the reference is the mean of.
      tolerance: relative distance that counts as reached.

    Raises:
      UserError: fewer values than `last`, or some that are not finite.
    """
    curve = np.asarray(values, np.float64)
    if len(curve) < last or not np.isfinite(curve).all():
        got = f"{len(curve)} values, {int((~np.isfinite(curve)).sum())} of them not finite"
        raise UserError("time to convergence", got=got, expected=f"at least {last} finite values, one an epoch")
    reference = curve[-last:].mean()
    reached = np.flatnonzero(np.abs(curve - reference) <= tolerance * abs(reference))
    return int(reached[0]) if len(reached) and reached[0] <= len(curve) - 5 else NOT_REACHED
