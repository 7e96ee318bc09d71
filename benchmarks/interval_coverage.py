"""How often intervals cover what they say, by simulation of data whose truth is known.

Each function runs trials, fewer than it is asked for where they are dear, and yields (interval, setting, share of
trials that cover the truth, trials). Run by `statistics.py --part=coverage`, which prints the table of
docs/statistics.md, and with fewer trials by tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
import math

import numpy as np
from scipy.stats import norm

from radnet_jax.evaluation.statistics import bootstrap, diagrams, seeds
from radnet_jax.evaluation.statistics.across_tasks import (
    iqm_interval,
    mean_rank_intervals,
    performance_profile,
    probability_of_improvement,
)
from radnet_jax.evaluation.statistics.delong import delong_interval, delong_interval_of_mean, delong_test
from radnet_jax.evaluation.statistics.paired import nadeau_bengio_test, paired_test, tost_paired
from radnet_jax.evaluation.statistics.tests import joint_test, spread, tost_welch, welch_test

Rows = Iterator[tuple[str, str, float, int]]
Trial = Callable[[np.random.Generator, int], Mapping[str, float]]
N_RESAMPLES = 1000


def _covered(setting: str, trial: Trial, trials: int) -> Rows:
    """The share of trials, each with a generator and a number of its own, in which each interval covers."""
    hits: defaultdict[str, float] = defaultdict(float)
    for i in range(trials):
        for name, covers in trial(np.random.default_rng([i, 77]), i).items():
            hits[name] += covers
    yield from ((name, setting, n / trials, trials) for name, n in hits.items())


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


def _clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and patients of 60 patients with 4 cases that score alike."""
    labels = rng.random(240) < np.repeat(rng.choice([0.1, 0.6], 60), 4)
    return rng.normal(labels * 1.2 + np.repeat(rng.normal(size=60), 4)), labels, np.arange(240) // 4


def clustered_auroc(trials: int) -> Rows:
    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        scores, labels, groups = _clustered(rng)
        area = norm.cdf(1.2 / 2)  # of cases of two patients: the difference has variance 4
        kwargs = {"groups": groups}
        out = _both("auroc", scores[:, None], labels[:, None], area, i, **kwargs)
        return out | {
            "delong_interval": _inside(delong_interval(scores, labels, groups=groups), area),
            "delong_interval, wrongly with groups=None": _inside(delong_interval(scores, labels, groups=None), area),
        }

    yield from _covered("AUROC 0.73, 60 patients with 4 cases", trial, trials)


def mean_of_runs(trials: int) -> Rows:
    """What a report gives of a start: the mean area of its runs, which see the same patients and mostly agree."""
    area = norm.cdf(1.2 / 2)  # as above: what the runs share and what they do not has a variance of 1 together

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        labels = rng.random(240) < np.repeat(rng.choice([0.1, 0.6], 60), 4)
        shared = labels * 1.2 + np.repeat(rng.normal(size=60), 4) + 0.8 * rng.normal(size=240)
        runs = [(shared + 0.6 * rng.normal(size=240))[:, None] for _ in range(4)]
        how = {"groups": np.arange(240) // 4}
        r = bootstrap.resample("auroc", runs, labels[:, None], n_resamples=N_RESAMPLES, seed=i, **how)  # type: ignore[arg-type]
        found = {m: bootstrap.interval_of_mean(r, slice(None), method=m) for m in ("bca", "percentile")}
        out = {f"bootstrap interval_of_mean, {m}": _inside(interval, area) for m, interval in found.items()}
        return out | {"delong_interval_of_mean": _inside(delong_interval_of_mean(runs, labels, **how), area)}

    yield from _covered("mean AUROC 0.73 of 4 runs, 60 patients with 4 cases", trial, trials // 4)


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
            "welch_test, one side fixed": _inside(welch_test(a, [0.78], fixed="b"), 0.02),
        }

    yield from _covered("4 seeds", trial, trials)


def equivalence(trials: int) -> Rows:
    """Starts that differ by just the margin, which the test may call equivalent in 5 % of trials at most."""

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        a, b = rng.normal(0.8, 0.01, 6), rng.normal(0.75, 0.02, 6)  # means five standard errors apart
        near = rng.normal(0.75 + 0.05 / 5, 0.02, 6)  # one or so from b
        delta, of_patients = a.mean() - b.mean() + rng.normal(0, 0.01), 0.01
        p = {
            "tost_welch": tost_welch(a, b, 0.05).p,
            "tost_welch, margin of about one standard error": tost_welch(near, b, 0.01).p,
            "tost_welch, one side fixed": tost_welch(a, [0.75], 0.05, fixed="b").p,
            "tost_paired": tost_paired(a, b, 0.05).p,
            "joint_test, p_equivalent": joint_test(delta, [spread(a, b), (of_patients, 99)], 0.05).p_equivalent,
        }
        return {f"{name}, not called equivalent": bool(value >= 0.05) for name, value in p.items()}

    yield from _covered("6 seeds, difference equal to the margin", trial, trials)


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


def mean_rank(trials: int) -> Rows:
    """The best of three starts: its rank by true means, and the rank that ten seeds give it on average."""
    names = ("the rank of the true means", "the expected rank of means over 10 seeds")
    for tasks, gap in ((5, 0.0), (5, 0.5), (5, 2.0), (20, 0.5)):
        means = 0.7 - gap * 0.03 * math.sqrt(2 / 10) * np.arange(3)
        truths = (1.0 if gap else 2.0, 1 + float(norm.cdf(-gap) + norm.cdf(-2 * gap)))

        def trial(
            rng: np.random.Generator,
            i: int,
            tasks: int = tasks,
            means: np.ndarray = means,
            truths: tuple[float, float] = truths,
        ) -> dict[str, bool]:
            starts = rng.normal(means[:, None, None], 0.03, (3, tasks, 10)).tolist()
            best = mean_rank_intervals(starts, n_resamples=N_RESAMPLES, seed=i)[0]
            return {f"mean_rank_intervals, {name}": _inside(best, t) for name, t in zip(names, truths)}

        setting = f"best of 3 starts, {gap:g} standard errors apart on each of {tasks} tasks, 10 seeds each"
        yield from _covered(setting, trial, trials // 4)


def profile(trials: int) -> Rows:
    level = np.array([0.6, 0.65, 0.7, 0.75, 0.8])[:, None]
    thresholds = np.linspace(0.6, 0.84, 25)
    truth = norm.sf((thresholds - level) / 0.03).mean(axis=0)
    shown = [int(np.abs(truth - share).argmin()) for share in (0.9, 0.5, 0.1, 0.02)]

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        tasks = rng.normal(level, 0.03, (5, 10)).tolist()
        found = performance_profile(tasks, thresholds.tolist(), n_resamples=N_RESAMPLES, seed=i)
        inside = (found.low <= truth) & (truth <= found.high)
        out = {f"performance_profile, where the share is {truth[q]:.2f}": bool(inside[q]) for q in shown}
        return out | {"performance_profile, wrongly as a band of the whole curve": bool(inside.all())}

    yield from _covered("5 tasks, 10 seeds each", trial, trials // 2)


def roc(trials: int) -> Rows:
    points = np.arange(5, 51)  # of the grid: 1 - specificity 0.05 to 0.5
    truth = norm.cdf(1.2 / math.sqrt(2) + norm.ppf(diagrams.GRID[points]))

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        scores, labels, groups = _clustered(rng)
        found = diagrams.mean_roc([scores[:, None]], labels[:, None], groups=groups, seed=i)
        inside = (found.low[points] <= truth) & (truth <= found.high[points])
        out = {f"mean_roc, at 1 - specificity {x:g}": bool(inside[points == 100 * x][0]) for x in (0.05, 0.1, 0.2, 0.5)}
        return out | {"mean_roc, wrongly as a band of the whole curve": bool(inside.all())}

    yield from _covered("AUROC 0.73, 60 patients with 4 cases", trial, trials // 4)


def _happened(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """What happens with probability p [patients cases], alike in a patient's cases (a Gaussian copula)."""
    z = math.sqrt(0.5) * rng.normal(size=(len(p), 1)) + math.sqrt(0.5) * rng.normal(size=p.shape)
    return norm.cdf(z) < p


def reliability(trials: int) -> Rows:
    truth = (np.arange(10) + 0.5) / 10  # what was said is uniform, and true
    where = {"0 to 0.1 and 0.9 to 1": [0, 9], "0.1 to 0.2 and 0.8 to 0.9": [1, 8], "0.2 to 0.8": [2, 3, 4, 5, 6, 7]}
    for cases in (3, 30):

        def trial(rng: np.random.Generator, i: int, cases: int = cases) -> dict[str, float]:
            said = rng.random((100, cases))
            happened = _happened(rng, said).reshape(-1, 1)
            found = diagrams.reliability(
                [said.reshape(-1, 1)], [happened], groups=np.arange(100 * cases) // cases, seed=i
            )
            inside = (found.low <= truth) & (truth <= found.high)
            return {f"reliability, bins {name}": float(inside[bins].mean()) for name, bins in where.items()}

        yield from _covered(f"10 bins, 100 patients with {cases} cases", trial, trials // 2)


def dice(trials: int) -> Rows:
    for patients in (20, 50):

        def trial(rng: np.random.Generator, i: int, patients: int = patients) -> dict[str, bool]:
            # A patient's two volumes are alike; a tenth of volumes is missed (0), a tenth empty and undefined.
            mean = np.repeat(rng.choice([0.7, 0.9], patients), 2)
            scores = rng.beta(10 * mean, 10 * (1 - mean)) * (rng.random(2 * patients) < 0.9)
            scores[rng.random(2 * patients) < 0.1] = np.nan
            labels = np.ones((2 * patients, 1))
            return _both("dice_per_volume", scores[:, None], labels, 0.72, i, groups=np.arange(2 * patients) // 2)

        yield from _covered(f"Dice per volume 0.72, {patients} patients with 2 volumes", trial, trials)


def f1(trials: int) -> Rows:
    share, right = np.array([0.5, 0.3, 0.2]), 0.7  # wrong guesses fall on either other class alike
    guessed = share * right + (1 - share) * (1 - right) / 2
    truth = float(np.mean(2 * share * right / (share + guessed)))

    def trial(rng: np.random.Generator, i: int) -> dict[str, bool]:
        classes = np.repeat(rng.choice(3, 80, p=share), 3)  # a patient's cases are of one class
        wrong = rng.random(240) >= np.repeat(rng.beta(2.1, 0.9, 80), 3)
        guess = (classes + wrong * rng.integers(1, 3, 240)) % 3
        return _both("f1", np.eye(3)[guess], np.eye(3)[classes], truth, i, groups=np.arange(240) // 3)

    yield from _covered(f"F1 {truth:.2f} of 3 classes, 80 patients with 3 cases", trial, trials)


def ece(trials: int) -> Rows:
    """The interval against the population's error, and against the mean of what such a split gives (biased upwards)."""
    for patients, truth, n in ((100, 0.0, trials // 2), (100, 0.1, trials // 2), (1000, 0.1, trials // 4)):
        points, ends = np.zeros(n), {m: np.zeros((n, 2)) for m in ("bca", "percentile")}
        for i in range(n):
            rng = np.random.default_rng([i, 77])
            said = rng.uniform(0.5, 1.0, (patients, 3))
            right = _happened(rng, said - truth).ravel()
            scores, labels = (np.stack([x, 1 - x], axis=1) for x in (said.ravel(), right.astype(int)))
            groups = np.arange(3 * patients) // 3
            r = bootstrap.resample("ece", [scores], labels, groups=groups, n_resamples=N_RESAMPLES, seed=i)
            points[i] = r.points[0]
            for method, found in ends.items():
                interval = bootstrap.interval_of_mean(r, slice(None), method=method)
                found[i] = interval.low, interval.high
        expected = float(points.mean())
        setting = f"ECE {truth:g}, {expected:.3f} on average, {patients} patients with 3 cases"
        for method, found in ends.items():
            for name, value in (("population", truth), ("average", expected)):
                covered = float(((found[:, 0] <= value) & (value <= found[:, 1])).mean())
                yield f"bootstrap_interval, {method}, of the {name}", setting, covered, n


PARTS = (
    accuracy,
    auroc,
    clustered_auroc,
    mean_of_runs,
    difference,
    over_seeds,
    equivalence,
    overlapping_splits,
    seeds_and_patients,
    difference_over_both,
    across_tasks,
    mean_rank,
    profile,
    roc,
    reliability,
    dice,
    f1,
    ece,
)
