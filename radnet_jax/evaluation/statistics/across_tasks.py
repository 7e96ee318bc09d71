"""One number for a start over many tasks, with what is known about it.

Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021: interquartile mean,
performance profile and probability of improvement, with intervals from a bootstrap that draws runs within each task.
Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, J. Mach. Learn. Res. 7, 2006: mean ranks.

A start's results are a list with the runs of each task, in the same order of tasks for all starts; tasks may have
different numbers of runs. Values must be comparable over tasks, and higher must be better. The bootstrap is over seeds,
so it begins at `seeds.MIN_SEEDS` runs a task: below, values are given without intervals, with the reason "few_seeds".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math

from jaxtyping import Float
import numpy as np
from scipy import stats

from radnet_jax.evaluation.statistics.bootstrap import percentile_interval
from radnet_jax.evaluation.statistics.seeds import MIN_SEEDS

_MAX_ORDERS = 200_000  # that are enumerated
Tasks = Sequence[Sequence[float]]
REASONS = {
    "few_seeds": f"a task has fewer than {MIN_SEEDS} runs: no resampling over seeds",
    "undefined_metric": "the metric of a run is undefined",
    "one_task": "fewer than two tasks",
    "no_variance": "all starts have the same rank on every task",
    "out_of_reach": "so few ranks can't tell starts apart at this level, whatever their order (exact Friedman test)",
}


@dataclasses.dataclass(frozen=True)
class AcrossTasks:
    """A number over tasks with its percentile interval over seeds; NaN ends with a reason (key of REASONS)."""

    value: float
    low: float
    high: float
    level: float
    n_tasks: int
    least_runs: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Profile:
    """The share of a start's runs above each threshold, with pointwise intervals."""

    thresholds: Float[np.ndarray, " q"]
    share: Float[np.ndarray, " q"]
    low: Float[np.ndarray, " q"]
    high: Float[np.ndarray, " q"]
    level: float
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class MeanRanks:
    """Mean ranks of s starts over t tasks; 1 is the best.

    Attributes:
      ranks: mean rank of each start; equal values share their ranks.
      standard_error: of each, over tasks.
      chi_square: Friedman's, corrected for ties, with its `p_friedman` (s - 1 degrees of freedom).
      f: Iman and Davenport's less conservative form of it.
      p: the one to read: exact, the same for both forms, where the orders can be enumerated; else that of `f`, but
        never below what the same order on every task would give.
      critical_difference: Nemenyi's: mean ranks that are further apart differ at `alpha`, corrected over all pairs.
      reason: key of REASONS, where the tests are undefined; "out_of_reach" where only the critical difference is.
    """

    ranks: tuple[float, ...]
    standard_error: tuple[float, ...]
    chi_square: float
    p_friedman: float
    f: float
    p: float
    critical_difference: float
    alpha: float
    n_tasks: int
    reason: str = ""


def interquartile_mean(values: Float[np.ndarray, "*r n"]) -> np.ndarray:
    """Mean of what is left after the lowest and the highest n // 4 values, over the last axis."""
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def iqm_interval(tasks: Tasks, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0) -> AcrossTasks:
    """The interquartile mean over all runs of all tasks: as robust as a median, with a smaller error than it.

    Args:
      tasks: the runs of each task.
      level: coverage.
      n_resamples: B.
      seed: of the draws.
    """
    return _interval(
        [tasks], lambda drawn: interquartile_mean(np.concatenate(drawn[0], axis=1)), level, n_resamples, seed
    )


def performance_profile(
    tasks: Tasks, thresholds: Sequence[float], *, level: float = 0.95, n_resamples: int = 2_000, seed: int = 0
) -> Profile:
    """The share of runs above each threshold, every task with the same weight (Agarwal et al., eq. 2).

    One start's profile above another's everywhere says that it is better at every level of performance. The intervals
    are for single thresholds: over a whole curve most have a gap somewhere. Where next to no run, or all but a few,
    lie above a threshold they are too narrow, and of no width where all runs lie on one side (docs/statistics.md).

    Args:
      tasks: the runs of each task.
      thresholds: where to look, in the metric's unit.
      level: of the pointwise intervals.
      n_resamples: B.
      seed: of the draws.
    """
    at = np.asarray(thresholds, np.float64)

    def shares(drawn: list[list[np.ndarray]]) -> np.ndarray:
        return np.mean([(x[:, :, None] > at).mean(axis=1) for x in drawn[0]], axis=0)

    value, values, reason = _resampled([tasks], shares, n_resamples, seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.full((2, len(at)), np.nan) if reason else np.quantile(values, tails, axis=0)
    return Profile(at, value, low, high, level, reason)


def probability_of_improvement(
    a: Tasks, b: Tasks, *, level: float = 0.95, n_resamples: int = 2_000, seed: int = 0
) -> AcrossTasks:
    """The probability that a run of a beats a run of b on a task drawn at random; equal runs count half.

    Agarwal et al., section 4.3: the mean over tasks of Mann and Whitney's U / (n_a n_b).

    Args:
      a: the runs of each task of one start.
      b: of the other, on the same tasks.
      level: coverage.
      n_resamples: B.
      seed: of the draws.
    """
    if len(a) != len(b):
        raise ValueError(f"both starts need the same tasks, got {len(a)} and {len(b)}")

    def improved(drawn: list[list[np.ndarray]]) -> np.ndarray:
        wins = [np.sign(x[:, :, None] - y[:, None, :]).mean(axis=(1, 2)) for x, y in zip(*drawn)]
        return (1 + np.mean(wins, axis=0)) / 2

    return _interval([a, b], improved, level, n_resamples, seed)


def mean_ranks(values: Float[np.ndarray, "t s"], *, alpha: float = 0.05) -> MeanRanks:
    """Ranks of the starts on each task, and whether they differ over tasks.

    The tasks are taken for a sample of those that one could meet, each with one number a start (its mean over runs).

    Args:
      values: by task and start.
      alpha: level of the critical difference.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"values must be [tasks starts] with two starts or more, got {x.shape}")
    n, k = x.shape
    nan = math.nan
    if np.isnan(x).any():
        return MeanRanks((nan,) * k, (nan,) * k, nan, nan, nan, nan, nan, alpha, n, "undefined_metric")
    ranks = stats.rankdata(-x, axis=1)
    mean = ranks.mean(axis=0) if n else np.full(k, nan)
    error = ranks.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(k, nan)
    spread = float(((ranks - (k + 1) / 2) ** 2).sum()) / (k - 1)  # n k (k + 1) / 12 without ties
    reason = "one_task" if n < 2 else "no_variance" if spread == 0 else ""
    chi = p_chi = f = p = nan
    if not reason:
        chi = float(n**2 * ((mean - (k + 1) / 2) ** 2).sum() / spread)
        p_chi = float(stats.chi2.sf(chi, k - 1))
        rest = n * (k - 1) - chi
        f = (n - 1) * chi / rest if rest > 1e-9 else math.inf  # the same order on every task
        orders = math.factorial(k) ** (n - 1)  # that are different once the starts' names are taken off
        if orders <= _MAX_ORDERS:
            p = _exact_friedman(ranks)
        else:
            p = max(float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))), 1 / orders)
        reason = "out_of_reach" if 1 / orders >= alpha else ""
    critical = nan
    if n > 1 and reason != "out_of_reach":
        q = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
        critical = q * math.sqrt(k * (k + 1) / (6 * n))
    return MeanRanks(tuple(mean.tolist()), tuple(error.tolist()), chi, p_chi, f, p, critical, alpha, n, reason)


def _exact_friedman(ranks: Float[np.ndarray, "t s"]) -> float:
    """The share of all orders of the ranks within tasks whose mean ranks differ at least as much as these.

    The first task is held: all that its orders would do is to rename the starts.
    """
    sums = 2 * ranks[:1]  # twice a rank is whole, ties or not
    for row in 2 * ranks[1:]:
        orders = np.array(list(itertools.permutations(row)))
        sums = (sums[:, None] + orders).reshape(-1, ranks.shape[1])
    apart = (sums**2).sum(axis=1)
    return float((apart >= ((2 * ranks.sum(axis=0)) ** 2).sum() - 0.5).mean())


def mean_rank_intervals(
    starts: Sequence[Tasks], *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[AcrossTasks, ...]:
    """The mean rank of each start over these tasks, by its mean over runs, with its interval over seeds.

    The interval is of the rank that so many runs give on average, not of the order of the starts' true means: noise
    draws the ranks of close starts together, over all tasks alike, so that the best of them ranks worse than 1 on
    average and its interval may leave out 1 (docs/statistics.md).

    Args:
      starts: for each start, the runs of each task.
      level: coverage.
      n_resamples: B.
      seed: of the draws.
    """
    if len({len(tasks) for tasks in starts}) != 1:
        raise ValueError(f"all starts need the same tasks, got {[len(tasks) for tasks in starts]}")

    def ranks(drawn: list[list[np.ndarray]]) -> np.ndarray:
        means = np.array([[x.mean(axis=1) for x in tasks] for tasks in drawn])  # start, task, resample
        return stats.rankdata(-means, axis=0).mean(axis=1).T

    value, values, reason = _resampled(starts, ranks, n_resamples, seed)
    least = min(len(x) for tasks in starts for x in tasks)
    out = []
    for i in range(len(starts)):
        low, high = (math.nan, math.nan) if reason else percentile_interval(values[:, i], level)
        out.append(AcrossTasks(float(value[i]), low, high, level, len(starts[0]), least, reason))
    return tuple(out)


def _interval(
    starts: Sequence[Tasks],
    statistic: Callable[[list[list[np.ndarray]]], np.ndarray],
    level: float,
    n_resamples: int,
    seed: int,
) -> AcrossTasks:
    value, values, reason = _resampled(starts, statistic, n_resamples, seed)
    low, high = (math.nan, math.nan) if reason else percentile_interval(values, level)
    least = min(len(x) for tasks in starts for x in tasks)
    return AcrossTasks(float(value), low, high, level, len(starts[0]), least, reason)


def _resampled(
    starts: Sequence[Tasks],
    statistic: Callable[[list[list[np.ndarray]]], np.ndarray],
    n_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, str]:
    """A statistic of the runs, and of resamples of the runs within each start and task; or the reason for none.

    `statistic` takes by start and task the runs of r resamples [r runs] and returns [r ...].
    """
    runs = [[np.asarray(x, np.float64) for x in tasks] for tasks in starts]
    if not runs[0] or any(not len(x) for tasks in runs for x in tasks):
        raise ValueError("there must be a task, and a run in each")
    value = statistic([[x[None] for x in tasks] for tasks in runs])[0]
    reason = ""
    if any(np.isnan(x).any() for tasks in runs for x in tasks):
        value, reason = np.full_like(value, np.nan), "undefined_metric"
    elif min(len(x) for tasks in runs for x in tasks) < MIN_SEEDS:
        reason = "few_seeds"
    if reason:
        return value, np.empty((0, *np.shape(value))), reason
    rng = np.random.default_rng(seed)
    blocks = []
    for begin in range(0, n_resamples, 500):
        r = min(500, n_resamples - begin)
        drawn = [[x[rng.integers(0, len(x), (r, len(x)))] for x in tasks] for tasks in runs]
        blocks.append(statistic(drawn))
    return value, np.concatenate(blocks), ""
