"""Intervals over seeds: what another run of the same recipe would give.

The spread of a handful of runs is known badly, and only the t-interval takes that into account: over four runs the
percentile bootstrap covers 79 % where it says 95 % (docs/statistics.md). It is therefore not offered, and resampling
over seeds begins at MIN_SEEDS.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from jaxtyping import Num
import numpy as np
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation.statistics import bootstrap
from radnet_jax.evaluation.statistics.weighted import MetricFunction

MIN_SEEDS = 10
REASONS = {
    "one_run": "fewer than two runs",
    "undefined_metric": "the metric of a run is undefined",
}


@dataclasses.dataclass(frozen=True)
class SeedInterval:
    """The mean of a metric over seeds; everything past the mean is NaN where there is a reason (key of REASONS)."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    level: float
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class HierarchicalInterval:
    """The mean of a metric over seeds with its interval over seeds and patients.

    Attributes:
      value: mean over the runs, on the split itself.
      standard_error: of the resampled means: over seeds and patients.
      standard_error_patients: over patients alone, for these seeds.
      n_undefined: resamples without a value; the interval is over the others.
      reason: key of `bootstrap.REASONS`, or empty.
    """

    value: float
    low: float
    high: float
    level: float
    standard_error: float
    standard_error_patients: float
    n_seeds: int
    n_groups: int
    n_resamples: int
    n_undefined: int
    reason: str = ""


def t_interval(values: Sequence[float], *, level: float = 0.95) -> SeedInterval:
    """Student's interval of the mean over seeds, for these patients; of runs that are all equal its width is 0.

    Student, Biometrika 6, 1908: mean +- t x sd / sqrt(n) with n - 1 degrees of freedom.

    Args:
      values: the metric of each run.
      level: coverage, exact for normal values.
    """
    x = np.asarray(values, np.float64)
    mean = float(x.mean()) if len(x) else math.nan
    reason = "undefined_metric" if np.isnan(x).any() else "one_run" if len(x) < 2 else ""
    if reason:
        return SeedInterval(len(x), mean, math.nan, math.nan, math.nan, level, reason)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1)) * sd / math.sqrt(len(x))
    return SeedInterval(len(x), mean, sd, mean - half, mean + half, level)


def refuse_few_seeds(n: int) -> None:
    """Refuses to resample over fewer seeds than MIN_SEEDS.

    Raises:
      UserError: there are fewer.
    """
    if n < MIN_SEEDS:
        raise UserError(
            f"Resampling over seeds only from {MIN_SEEDS} seeds up",
            got=f"{n} seeds",
            fix="use t_interval or welch_test over seeds, and bootstrap_interval over patients",
        )


def hierarchical_interval(
    metric: str | MetricFunction,
    scores: Sequence[Num[np.ndarray, "n ..."]],
    labels: Num[np.ndarray, "n ..."],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    n_resamples: int = 10_000,
    strata: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> HierarchicalInterval:
    """The mean over seeds with a percentile interval for other seeds and other patients at once.

    All runs see the same patients, so seeds and patients are crossed: each resample draws both with replacement and
    takes the mean of the drawn runs on the drawn patients (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 1, 2007,
    which shows its variance to be at least the true one, up to the factor (n - 1) / n of each bootstrap).

    Args:
      metric: as for `bootstrap_interval`.
      scores: of each run, on the same cases.
      labels: 0 or 1.
      label_mask: 1 where known; None: all are.
      groups: the patient of each case, or None, said aloud.
      n_resamples: B.
      strata: as for `bootstrap_interval`.
      level: coverage.
      seed: of the draws.

    Raises:
      UserError: fewer than MIN_SEEDS runs.
    """
    refuse_few_seeds(len(scores))
    r = bootstrap.resample(
        metric,
        scores,
        labels,
        groups=groups,
        label_mask=label_mask,
        strata=strata,
        n_resamples=n_resamples,
        seed=seed,
        jackknife=False,
    )
    m = len(scores)
    drawn = np.random.default_rng([seed, 0, 1]).integers(0, m, (m, n_resamples))
    both = np.take_along_axis(r.values, drawn, axis=0).mean(axis=0)
    over_patients = bootstrap.interval_of_mean(r, slice(None), level=level, method="percentile")
    reason, defined = over_patients.reason, both[~np.isnan(both)]
    low = high = error = math.nan
    if not reason:
        error = float(defined.std(ddof=1))
        low, high = bootstrap.percentile_interval(defined, level)
    return HierarchicalInterval(
        over_patients.value,
        low,
        high,
        level,
        error,
        over_patients.standard_error,
        m,
        r.n_groups,
        n_resamples,
        n_resamples - len(defined),
        reason,
    )
