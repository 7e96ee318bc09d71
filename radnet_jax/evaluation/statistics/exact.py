"""Tests by counting arrangements: permutation, sign flips, Wilcoxon's signed ranks, McNemar. No normal law is assumed.

An exact test has a least p: that of the most extreme arrangement. With few runs it is large, 2 / 70 = 0.029 for four
runs against four, and after a correction for many comparisons no result whatever could be significant. Each result
therefore carries `least_p`, and `out_of_reach` says so in words where alpha can't be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import math

from jaxtyping import Bool
import numpy as np
from scipy import stats

from radnet_jax.evaluation.statistics.paired import differences

REASONS = {
    "one_run": "a group without runs",
    "undefined_metric": "the metric of a run is undefined",
    "no_difference": "no pair differs",
}
_MAX_EXACT = 200_000  # arrangements that are all counted
_MAX_SIGNED_RANKS = 200  # pairs whose signed ranks are counted exactly, by adding up


@dataclasses.dataclass(frozen=True)
class ExactTest:
    """A two-sided test by counting.

    Attributes:
      n: runs on both sides, or pairs that differ.
      statistic: difference of means, smaller sum of signed ranks, or pairs in which only a is right.
      p: two-sided; NaN where there is a reason (key of REASONS).
      exact: whether all arrangements were counted; else p rests on a sample of them or on the normal law.
      least_p: the p of the most extreme arrangement of these values.
      alpha: the level that p is held against, corrected for the family.
      out_of_reach: a sentence where least_p is not below alpha, so that no result could be significant; else empty.
    """

    n: int
    statistic: float
    p: float
    exact: bool
    least_p: float
    alpha: float
    out_of_reach: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class McNemarTest:
    """Two models on the same cases.

    Attributes:
      only_a: cases in which a alone is right.
      only_b: in which b alone is right.
      difference: of the accuracies, a minus b.
      p: exact, two-sided.
      p_mid: mid-p, half of the probability of what was observed: closer to the level, seldom above it.
      least_p: the exact p if all differing cases fell on one side.
      out_of_reach: as in `ExactTest`.
    """

    n: int
    only_a: int
    only_b: int
    difference: float
    p: float
    p_mid: float
    least_p: float
    alpha: float
    out_of_reach: str
    reason: str = ""


def permutation_test(
    a: Sequence[float], b: Sequence[float], *, alpha: float = 0.05, n_permutations: int = 100_000, seed: int = 0
) -> ExactTest:
    """Tests that the runs of two starts are exchangeable, by the difference of their means over all divisions in two.

    Fisher, The Design of Experiments, 1935. Up to 200,000 divisions all are counted; beyond, `n_permutations` are drawn
    and p = (count + 1) / (n + 1) (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010).

    Args:
      a: the metric of each run of one start.
      b: of the other.
      alpha: the level that p will be held against, e.g. 0.05 / comparisons.
      n_permutations: drawn where there are too many to count.
      seed: of the draws.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    pooled = np.concatenate([x, y])
    if not len(x) or not len(y) or np.isnan(pooled).any():
        return _undefined(len(pooled), alpha, "undefined_metric" if np.isnan(pooled).any() else "one_run")
    n, k = len(pooled), len(x)
    total = math.comb(n, k)
    exact = total <= _MAX_EXACT
    if exact:
        chosen = np.array(list(itertools.combinations(range(n), k)))
        sums = pooled[chosen].sum(axis=1)
    else:
        rng = np.random.default_rng(seed)
        sums = np.concatenate([rng.permuted(np.tile(pooled, (r, 1)), axis=1)[:, :k].sum(axis=1)
                               for r in _blocks(n_permutations)])  # fmt: skip
    delta = float(x.mean() - y.mean())
    # The difference of means is this linear function of the sum over a's places.
    return _counted(n, delta, sums / k - (pooled.sum() - sums) / (n - k), exact, total, pooled, alpha)


def least_permutation_p(n_a: int, n_b: int) -> float:
    """The least p that `permutation_test` can give for so many different runs: 0.029 for 4 against 4.

    Equal groups have their most extreme division on both sides, others on one.
    """
    return (2 if n_a == n_b else 1) / math.comb(n_a + n_b, n_a)


def sign_flip_test(
    a: Sequence[float], b: Sequence[float], *, alpha: float = 0.05, n_permutations: int = 100_000, seed: int = 0
) -> ExactTest:
    """Tests that paired runs are exchangeable within each pair, by the mean difference over all choices of signs.

    All 2^n choices are counted up to n = 17; beyond, they are drawn as in `permutation_test`.

    Args:
      a: the metric of each run of one start.
      b: of the other, the i-th paired with the i-th of a.
      alpha: as for `permutation_test`.
      n_permutations: likewise.
      seed: of the draws.
    """
    d = differences(a, b)
    if not len(d) or np.isnan(d).any():
        return _undefined(len(d), alpha, "one_run" if not len(d) else "undefined_metric")
    n, total = len(d), 2 ** len(d)
    exact = total <= _MAX_EXACT
    if exact:
        bits = np.arange(total)[:, None] >> np.arange(n) & 1
        means = (2 * bits - 1) @ d / n
    else:
        rng = np.random.default_rng(seed)
        means = np.concatenate([(2 * rng.integers(0, 2, (r, n)) - 1) @ d / n for r in _blocks(n_permutations)])
    return _counted(n, float(d.mean()), means, exact, total, d, alpha)


def wilcoxon_test(a: Sequence[float], b: Sequence[float], *, alpha: float = 0.05) -> ExactTest:
    """Wilcoxon's signed-rank test of paired runs; ties have midranks, pairs without a difference are left out.

    Wilcoxon, Biometrics Bull. 1, 1945. Exact up to 200 pairs, ties included, by adding up the distribution of the sum
    of the ranks with random signs; beyond, by the normal law with the variance under ties.

    Args:
      a: the metric of each run of one start.
      b: of the other, the i-th paired with the i-th of a.
      alpha: the level that p will be held against.
    """
    d = differences(a, b)
    if np.isnan(d).any():
        return _undefined(len(d), alpha, "undefined_metric")
    # Equal differences of decimals, as of 0.4 - 0.3 and 0.3 - 0.2, differ in the last bit and must share their rank.
    d = np.round(d / max(np.abs([*a, *b]).max(initial=0.0), np.finfo(np.float64).tiny), 12)
    d = d[d != 0]
    n = len(d)
    if not n:
        return _undefined(0, alpha, "no_difference")
    twice = np.round(2 * stats.rankdata(np.abs(d))).astype(np.int64)  # midranks are halves
    positive, whole = int(twice[d > 0].sum()), int(twice.sum())
    smaller = min(positive, whole - positive)
    exact = n <= _MAX_SIGNED_RANKS
    if exact:
        ways = np.zeros(whole + 1)
        ways[0] = 1.0
        for rank in twice:
            ways[rank:] = (ways[rank:] + ways[: len(ways) - rank]) / 2
            ways[:rank] /= 2
        p = min(1.0, 2 * float(ways[: smaller + 1].sum()))
        least = min(1.0, 2.0 ** (1 - n))
    else:
        error = math.sqrt(float((twice.astype(np.float64) ** 2).sum())) / 2
        p = min(1.0, float(2 * stats.norm.cdf((smaller - whole / 2) / error)))
        least = float(2 * stats.norm.cdf(-whole / 2 / error))
    return ExactTest(n, smaller / 2, p, exact, least, alpha, _out_of_reach(least, alpha, f"{n} differing pairs"))


def mcnemar_test(
    correct_a: Bool[np.ndarray, " n"], correct_b: Bool[np.ndarray, " n"], *, alpha: float = 0.05
) -> McNemarTest:
    """Tests whether two models are right equally often, on independent cases: one a patient.

    McNemar, Psychometrika 12, 1947, exact by the binomial law of the cases in which one alone is right; mid-p after
    Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13, 2013, who advise it. With several cases a patient neither
    holds: use `bootstrap.paired_bootstrap`, or `sign_flip_test` on the patients' accuracies.

    Args:
      correct_a: in which cases one model is right.
      correct_b: the other.
      alpha: the level that p will be held against.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two models on the same cases, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    m, k = only_a + only_b, min(only_a, only_b)
    delta = (only_a - only_b) / len(a) if len(a) else math.nan
    if not m:
        return McNemarTest(len(a), 0, 0, delta, math.nan, math.nan, math.nan, alpha, "", "no_difference")
    tail = float(2 * stats.binom.cdf(k, m, 0.5))
    # What was observed has a mirror image that is as extreme, except where both counts are equal.
    p, p_mid = min(1.0, tail), tail - float(stats.binom.pmf(k, m, 0.5)) * (1.5 if only_a == only_b else 1)
    least = min(1.0, 2.0 ** (1 - m))
    note = _out_of_reach(least, alpha, f"{m} cases in which one alone is right")
    return McNemarTest(len(a), only_a, only_b, delta, p, p_mid, least, alpha, note)


def _counted(
    n: int, observed: float, arranged: np.ndarray, exact: bool, total: int, values: np.ndarray, alpha: float
) -> ExactTest:
    """p of an observed difference among arranged ones; equal ones that rounding has parted count as equal."""
    slack = 1e-12 * np.abs(values).max()
    extreme = int((np.abs(arranged) >= abs(observed) - slack).sum())
    if exact:
        p, most = extreme / total, np.abs(arranged).max()
        least = int((np.abs(arranged) >= most - slack).sum()) / total
    else:
        p, least = (extreme + 1) / (len(arranged) + 1), 1 / (len(arranged) + 1)
    note = _out_of_reach(least, alpha, f"{total if exact else len(arranged)} arrangements of these {n} values")
    return ExactTest(n, observed, p, exact, least, alpha, note)


def _blocks(n: int) -> Iterator[int]:
    yield from (min(10_000, n - begin) for begin in range(0, n, 10_000))


def _out_of_reach(least: float, alpha: float, of: str) -> str:
    if least < alpha:
        return ""
    return f"{of} can't give a p below {least:.2g}, so that no result reaches the level {alpha:.2g}"


def _undefined(n: int, alpha: float, reason: str) -> ExactTest:
    return ExactTest(n, math.nan, math.nan, False, math.nan, alpha, "", reason)
