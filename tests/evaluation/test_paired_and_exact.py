"""Paired tests, tests by counting, corrections and the number of seeds against SciPy, statsmodels and by hand."""

import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.weightstats import ttost_paired

from radnet_jax.evaluation.statistics import correction, exact, paired, power
from radnet_jax.evaluation.statistics.exact import mcnemar_test, permutation_test, sign_flip_test, wilcoxon_test
from radnet_jax.evaluation.statistics.paired import nadeau_bengio_test, paired_test, tost_paired

values = st.floats(0, 1, width=32)
coarse = st.integers(0, 6).map(lambda i: i / 8)  # many ties, exact in binary
pairs = st.lists(st.tuples(values, values), min_size=2, max_size=10).map(lambda p: tuple(zip(*p)))


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_paired_is_scipys(ab):
    a, b = ab
    d = np.subtract(a, b)
    assume(np.ptp(d) > 1e-3)
    got, expected = paired_test(a, b, level=0.9), stats.ttest_rel(a, b)
    np.testing.assert_allclose((got.t, got.df, got.p), (expected.statistic, expected.df, expected.pvalue), rtol=1e-9)
    np.testing.assert_allclose((got.low, got.high), expected.confidence_interval(0.9), rtol=1e-9, atol=1e-12)
    n = len(a)
    if n > 2:
        j = math.gamma((n - 1) / 2) / (math.sqrt((n - 1) / 2) * math.gamma((n - 2) / 2))
        assert got.hedges_g == pytest.approx(j * d.mean() / d.std(ddof=1), rel=1e-9, abs=1e-12)
    else:
        assert math.isnan(got.hedges_g)


@settings(max_examples=40, deadline=None)
@given(pairs, st.floats(0.01, 0.5))
def test_paired_equivalence_is_statsmodels(ab, margin):
    a, b = map(np.array, ab)
    assume(np.ptp(a - b) > 1e-3)
    expected, *_ = ttost_paired(a, b, -margin, margin)
    assert tost_paired(a, b, margin).p == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_equivalence_without_a_difference():
    assert tost_paired([0.1, 0.2], [0.2, 0.1], 0.5).p == pytest.approx(stats.t.sf(5, 1))
    with pytest.raises(ValueError, match="margin must be positive"):
        tost_paired([0.1, 0.2], [0.2, 0.1], 0)


def test_nadeau_bengio_widens_the_error():
    """Section 3 of the paper: s^2 (1/n + n_test/n_train) in place of s^2 / n."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.02, 10), rng.normal(0.78, 0.02, 10)
    got, plain = nadeau_bengio_test(a, b, n_train=900, n_test=100), paired_test(a, b)
    d = a - b
    error = math.sqrt((1 / 10 + 1 / 9) * d.var(ddof=1))
    assert got.t == pytest.approx(d.mean() / error, rel=1e-12)
    assert got.p == pytest.approx(2 * stats.t.sf(abs(got.t), 9), rel=1e-12)
    assert got.high - got.low == pytest.approx(2 * stats.t.ppf(0.975, 9) * error, rel=1e-12)
    assert got.p > plain.p
    with pytest.raises(ValueError, match="must be positive"):
        nadeau_bengio_test(a, b, n_train=0, n_test=1)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([0.8], [0.7], "one_run"),
        ([], [], "one_run"),
        ([0.83, 0.73], [0.7, 0.6], "no_variance"),
        ([0.8, math.nan], [0.7, 0.6], "undefined_metric"),
    ],
)
def test_undefined_pairs_have_a_reason(a, b, reason):
    assert reason in paired.REASONS
    for got in (paired_test(a, b), nadeau_bengio_test(a, b, n_train=2, n_test=1), tost_paired(a, b, 0.1)):
        assert got.reason == reason
        assert math.isnan(got.p)


def test_pairs_need_equal_numbers():
    for test in (paired_test, sign_flip_test, wilcoxon_test, mcnemar_test):
        with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
            test([1, 0], [1, 0, 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(coarse, min_size=2, max_size=5), st.lists(coarse, min_size=2, max_size=5))
def test_permutation_is_scipys(a, b):
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis), n_resamples=np.inf, vectorized=True
    )
    got = permutation_test(a, b)
    assert got.exact
    assert got.statistic == pytest.approx(expected.statistic, abs=1e-12)
    counted = [abs(np.mean(np.delete(c, i)) - np.mean(c[list(i)])) for c in [np.array(a + b)]
               for i in itertools.combinations(range(len(c)), len(b))]  # fmt: skip
    assert got.p == pytest.approx(np.mean(np.array(counted) >= abs(got.statistic) - 1e-9), abs=1e-12)
    assert got.least_p == pytest.approx(np.mean(np.array(counted) >= max(counted) - 1e-9), abs=1e-12)
    if len(a) == len(b):  # SciPy doubles the smaller tail, which is the same where both sides have as many
        assert got.p == pytest.approx(expected.pvalue, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(coarse, coarse), min_size=2, max_size=8).map(lambda p: tuple(zip(*p))))
def test_sign_flips_are_scipys(ab):
    expected = stats.permutation_test(
        (np.subtract(*ab),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    got = sign_flip_test(*ab)
    assert got.exact
    assert got.p == pytest.approx(expected.pvalue, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coarse, coarse), min_size=2, max_size=8).map(lambda p: tuple(zip(*p))))
def test_signed_ranks_count_all_signs(ab):
    d = np.subtract(*ab)
    got = wilcoxon_test(*ab)
    d = d[d != 0]
    if not len(d):
        assert got.reason == "no_difference"
        return
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([ranks[list(s)].sum() for r in range(len(d) + 1) for s in itertools.combinations(range(len(d)), r)])
    smaller = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    assert got.statistic == smaller
    assert got.p == pytest.approx(min(1, 2 * np.mean(sums <= smaller)), abs=1e-12)
    if len(set(np.abs(d))) == len(d):
        assert got.p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, abs=1e-12)


def test_equal_differences_of_decimals_share_their_rank():
    a, b = [0.4, 0.5, 0.9], [0.3, 0.6, 0.9]
    assert abs(a[0] - b[0]) != abs(a[1] - b[1])
    got = wilcoxon_test(a, b)
    assert (got.n, got.statistic, got.p) == (2, 1.5, 1.0)
    assert wilcoxon_test([0.1 + 0.2, 0.5], [0.3, 0.4]).n == 1


def test_many_signed_ranks_follow_the_normal_law():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 300).round(1), np.zeros(300)
    got, expected = wilcoxon_test(a, b), stats.wilcoxon(a, method="asymptotic", correction=False)
    assert not got.exact
    assert got.p == pytest.approx(expected.pvalue, rel=1e-9)
    few = wilcoxon_test(a[:200], b[:200])
    assert few.exact
    assert few.p == pytest.approx(stats.wilcoxon(a[:200], method="asymptotic").pvalue, rel=0.02)


def test_many_runs_are_permuted_at_random():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.35, 1, 40), rng.normal(0, 1, 40)
    for test, expected in ((permutation_test, stats.ttest_ind(a, b)), (sign_flip_test, stats.ttest_rel(a, b))):
        got = test(a, b, n_permutations=20_000, seed=1)
        assert not got.exact
        assert got.p == pytest.approx(expected.pvalue, rel=0.1)
        assert got.p == test(a, b, n_permutations=20_000, seed=1).p
        assert got.least_p == 1 / 20_001
        assert test(a + 9, b, n_permutations=999).p == 1 / 1000


def test_four_runs_against_four_cannot_reach_a_corrected_level():
    a, b = [0.9, 0.91, 0.92, 0.93], [0.1, 0.11, 0.12, 0.13]
    got = permutation_test(a, b, alpha=0.05 / 8)
    assert got.p == got.least_p == pytest.approx(2 / 70)
    assert got.out_of_reach == (
        "70 arrangements of these 8 values can't give a p below 0.029, so that no result reaches the level 0.0063"
    )
    assert permutation_test(a, b, alpha=0.05).out_of_reach == ""
    assert sign_flip_test(a, b).least_p == wilcoxon_test(a, b).least_p == 0.125
    assert "0.12" in sign_flip_test(a, b).out_of_reach
    assert "4 differing pairs" in wilcoxon_test(a, b).out_of_reach
    assert wilcoxon_test([*a, 0.94, 0.95], [*b, 0.14, 0.15]).out_of_reach == ""


@pytest.mark.parametrize(("a", "b", "reason"), [([], [0.1], "one_run"), ([math.nan], [0.1], "undefined_metric")])
def test_undefined_permutations_have_a_reason(a, b, reason):
    assert reason in exact.REASONS
    assert permutation_test(a, b).reason == reason
    assert math.isnan(permutation_test(a, b).p)
    assert sign_flip_test(a, b[: len(a)]).reason == reason


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_statsmodels(cases):
    a, b = np.array(cases).T
    got = mcnemar_test(a, b)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert (got.only_a, got.only_b) == (table[0][1], table[1][0])
    assert got.difference == pytest.approx(a.mean() - b.mean())
    if (a == b).all():
        assert got.reason == "no_difference"
        assert math.isnan(got.p)
        return
    m, k = got.only_a + got.only_b, min(got.only_a, got.only_b)
    assert got.p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)
    law = stats.binom.pmf(np.arange(m + 1), m, 0.5)
    away, seen = abs(2 * np.arange(m + 1) - m), m - 2 * k
    assert got.p_mid == pytest.approx(law[away > seen].sum() + law[away == seen].sum() / 2, abs=1e-12)


def test_mcnemar_of_the_published_example():
    """Fagerland et al. 2013, table 1 (Bentur et al. 2009): 1 and 7 of 21 differ; exact 0.0703, mid-p 0.0391."""
    a, b = np.zeros(21, bool), np.zeros(21, bool)
    a[0], b[1:8] = True, True
    got = mcnemar_test(a, b)
    assert (round(got.p, 4), round(got.p_mid, 4)) == (0.0703, 0.0391)
    assert mcnemar_test(a[:3], b[:3]).out_of_reach.startswith("3 cases in which one alone is right can't give a p")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12))
def test_benjamini_hochberg_is_statsmodels(p):
    got = correction.correct(np.array([*p, math.nan]), "benjamini_hochberg")
    np.testing.assert_allclose(got[:-1], multipletests(p, method="fdr_bh")[1], rtol=1e-12)
    assert math.isnan(got[-1])
    np.testing.assert_array_equal(correction.correct(np.array(p)), correction.holm(np.array(p)))
    with pytest.raises(ValueError, match="unknown method"):
        correction.correct(np.array(p), "none")


@pytest.mark.parametrize(("d", "alpha"), [(0.3, 0.05), (1.0, 0.05), (1.0, 0.004), (3.0, 0.05)])
def test_seeds_needed_is_statsmodels(d, alpha):
    """Equal spreads: Welch's degrees of freedom are Student's."""
    expected = math.ceil(TTestIndPower().solve_power(effect_size=d, alpha=alpha, power=0.8))
    assert power.seeds_needed(0.01 * d, 0.01, 0.01, alpha=alpha) == expected
    assert power.seeds_needed(-0.01 * d, 0.01, 0.01, alpha=alpha) == expected


def test_seeds_needed_has_its_ends():
    assert power.seeds_needed(1.0, 1e-6, 1e-6, alpha=0.05) == 2
    assert power.seeds_needed(0.001, 1.0, 1.0, alpha=0.05, most=50) is None
    assert power.seeds_needed(1.0, 1.0, 0.0, alpha=0.05) >= 10
    with pytest.raises(ValueError, match="delta must not be 0"):
        power.seeds_needed(0.0, 1.0, 1.0, alpha=0.05)
