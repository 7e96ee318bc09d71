"""How often intervals cover what they say, by simulation of data whose truth is known.

Each function runs trials and yields (interval, setting, share of trials that cover the truth). Run by
`statistics.py --part=coverage`, which prints the table of docs/statistics.md, and with fewer trials by a slow test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
import math

import numpy as np
from scipy.stats import norm

from radnet_jax.evaluation.statistics import bootstrap, seeds
from radnet_jax.evaluation.statistics.across_tasks import iqm_interval, probability_of_improvement
from radnet_jax.evaluation.statistics.delong import delong_interval, delong_test
from radnet_jax.evaluation.statistics.paired import nadeau_bengio_test, paired_test
from radnet_jax.evaluation.statistics.tests import joint_test, spread, welch_test

Rows = Iterator[tuple[str, str, float]]
Trial = Callable[[np.random.Generator, int], dict[str, bool]]
N_RESAMPLES = 1000


def _covered(setting: str, trial: Trial, trials: int) -> Rows:
    """The share of trials, each with a generator and a number of its own, in which each interval covers."""
    hits: Counter[str] = Counter()
    for i in range(trials):
        hits.update(trial(np.random.default_rng([i, 77]), i))
    yield from ((name, setting, n / trials) for name, n in hits.items())


def _inside(interval: object, truth: float) -> bool:
    return bool(interval.low <= truth <= interval.high)  # type: ignore[attr-defined]


def _both(metric: str, scores: np.ndarray, labels: np.ndarray, truth: float, i: int, **how: object) -> dict[str, bool]:
    r = bootstrap.resample(metric, [scores], labels, n_resamples=N_RESAMPLES, seed=i, **how)  # type: ignore[arg-type]
    found = {m: bootstrap.interval_of_mean(r, slice(None), method=m) for m in ("bca", "percentile")}
    return {f"bootstrap_interval, {m}": _inside(interval, truth) for m, interval in found.items()}


def accuracy(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        right = (rng.random(150) < np.repeat(rng.beta(2.1, 0.9, 50), 3)).astype(float)
        scores, labels = np.stack([right, 1 - right], axis=1), np.tile([1, 0], (150, 1))
        out = _both("accuracy", scores, labels, 0.7, i, groups=np.arange(150) // 3)
        naive = bootstrap.bootstrap_interval("accuracy", scores, labels, groups=None, n_resamples=N_RESAMPLES)
        return out | {"bootstrap_interval, bca, wrongly with groups=None": _inside(naive, 0.7)}

    yield from _covered("accuracy 0.7, 50 patients with 3 cases", trial, trials)


def auroc(trials: int, *, area: float = 0.85, n_positive: int = 30, n_negative: int = 70) -> Rows:
    labels = np.arange(n_positive + n_negative) < n_positive

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        scores = rng.normal(labels * math.sqrt(2) * norm.ppf(area))
        out = _both("auroc", scores[:, None], labels[:, None], area, i, groups=None)
        r = bootstrap.resample(
            "auroc", [scores[:, None]], labels[:, None], groups=None, strata=labels, n_resamples=N_RESAMPLES, seed=i
        )
        within = bootstrap.interval_of_mean(r, slice(None))
        return out | {
            "bootstrap_interval, bca, strata=labels": _inside(within, area),
            "delong_interval": _inside(delong_interval(scores, labels, groups=None), area),
        }

    yield from _covered(f"AUROC {area}, {n_positive} positives, {n_negative} negatives", trial, trials)


def clustered_auroc(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        groups = np.arange(240) // 4
        labels = rng.random(240) < np.repeat(rng.choice([0.1, 0.6], 60), 4)
        scores = rng.normal(labels * 1.2 + np.repeat(rng.normal(size=60), 4))  # a patient's cases score alike
        area = norm.cdf(1.2 / 2)  # of cases of two patients: the difference has variance 4
        kwargs = {"groups": groups}
        out = _both("auroc", scores[:, None], labels[:, None], area, i, **kwargs)
        return out | {
            "delong_interval": _inside(delong_interval(scores, labels, groups=groups), area),
            "delong_interval, wrongly with groups=None": _inside(delong_interval(scores, labels, groups=None), area),
        }

    yield from _covered("AUROC 0.73, 60 patients with 4 cases", trial, trials)


def difference(trials: int) -> Rows:
    labels = np.arange(120) < 40

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        shared = rng.normal(size=120)
        a, b = (labels * d + 0.8 * shared + 0.6 * rng.normal(size=120) for d in (1.5, 1.0))
        truth = norm.cdf(1.5 / math.sqrt(2)) - norm.cdf(1.0 / math.sqrt(2))
        pair = bootstrap.paired_bootstrap(
            "auroc", [a[:, None]], [b[:, None]], labels[:, None], groups=None, n_resamples=N_RESAMPLES, seed=i
        )
        return {
            "paired_bootstrap": _inside(pair, truth),
            "delong_test": _inside(delong_test(a, b, labels, groups=None), truth),
        }

    yield from _covered("difference of two AUROCs, 40 positives, 80 negatives", trial, trials)


def over_seeds(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        a, b = rng.normal(0.8, 0.01, 4), rng.normal(0.78, 0.03, 4)
        means = a[rng.integers(0, 4, (N_RESAMPLES, 4))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return {
            "t_interval": _inside(seeds.t_interval(a), 0.8),
            "percentile bootstrap over seeds (not offered)": bool(low <= 0.8 <= high),
            "welch_test, standard deviations 1 to 3": _inside(welch_test(a, b), 0.02),
            "paired_test": _inside(paired_test(a, b), 0.02),
        }

    yield from _covered("4 seeds", trial, trials)


def overlapping_splits(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        # Differences over splits with a tenth for test are correlated by about that share (Nadeau and Bengio).
        d = math.sqrt(0.1) * rng.normal() + math.sqrt(0.9) * rng.normal(size=10)
        right = nadeau_bengio_test(d, np.zeros(10), n_train=900, n_test=100)
        return {
            "nadeau_bengio_test": _inside(right, 0.0),
            "paired_test, wrongly": _inside(paired_test(d, np.zeros(10)), 0.0),
        }

    yield from _covered("10 random splits of the same data", trial, trials)


def seeds_and_patients(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        p = 0.7 + rng.uniform(-0.1, 0.1, (10, 1)) + rng.uniform(-0.2, 0.2, 60)  # seeds and patients
        right = (rng.random((10, 60)) < p).astype(float)
        scores, labels = np.stack([right, 1 - right], axis=2), np.tile([1, 0], (60, 1))
        both = seeds.hierarchical_interval(
            "accuracy", list(scores), labels, groups=None, n_resamples=N_RESAMPLES, seed=i
        )
        r = bootstrap.resample("accuracy", list(scores), labels, groups=None, n_resamples=N_RESAMPLES, seed=i)
        return {
            "hierarchical_interval": _inside(both, 0.7),
            "bootstrap_interval of these seeds' mean": _inside(bootstrap.interval_of_mean(r, slice(None)), 0.7),
        }

    yield from _covered("accuracy 0.7 over seeds and patients, 10 seeds, 60 patients", trial, trials)


def difference_over_both(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        # Equal starts; a seed moves a run, a draw of 100 patients moves all runs of a start, by as much.
        seeds_a, seeds_b = rng.normal(0, 0.01 * math.sqrt(6), (2, 6))
        a, b = (s + rng.normal(0, 0.01) for s in (seeds_a, seeds_b))
        of_patients = rng.normal(0, 0.1, (100, 2)) @ np.array([1, -1])
        welch, error = welch_test(a, b), of_patients.std(ddof=1) / 10
        alone = bool(abs(welch.delta) <= 1.96 * error)
        parts = [spread(a, b), (error, 99)]
        return {
            "joint_test": _inside(joint_test(welch.delta, parts, 0.02), 0.0),
            "welch_test, wrongly alone": _inside(welch, 0.0),
            "paired_bootstrap, wrongly alone": alone,
            "larger p of these two, wrongly": _inside(welch, 0.0) or alone,
        }

    yield from _covered("difference over seeds and patients, 6 seeds, equal variances", trial, trials)


def across_tasks(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        level = np.array([0.6, 0.65, 0.7, 0.75, 0.8])[:, None]  # symmetric, so the interquartile mean is 0.7
        a, b = rng.normal(level, 0.03, (5, 10)), rng.normal(level - 0.03, 0.03, (5, 10))
        better = probability_of_improvement(a.tolist(), b.tolist(), n_resamples=N_RESAMPLES, seed=i)
        return {
            "iqm_interval": _inside(iqm_interval(a.tolist(), n_resamples=N_RESAMPLES, seed=i), 0.7),
            "probability_of_improvement": _inside(better, float(norm.cdf(1 / math.sqrt(2)))),
        }

    yield from _covered("5 tasks, 10 seeds each", trial, trials)


PARTS = (
    accuracy,
    auroc,
    clustered_auroc,
    difference,
    over_seeds,
    overlapping_splits,
    seeds_and_patients,
    difference_over_both,
    across_tasks,
)
