"""Tests between groups of runs against SciPy and statsmodels."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from radnet_jax.evaluation.statistics import correction, power, tests
from radnet_jax.evaluation.statistics.tests import inside_margin, tost_welch, welch_test

runs = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8)


def _spread(*groups):
    return all(np.ptp(g) > 1e-3 for g in groups)


@settings(max_examples=60, deadline=None)
@given(runs, runs)
def test_welch_is_scipys(a, b):
    got = welch_test(a, b, level=0.9)
    if not _spread(a, b):
        return
    expected = stats.ttest_ind(a, b, equal_var=False)
    np.testing.assert_allclose((got.t, got.df, got.p), (expected.statistic, expected.df, expected.pvalue), rtol=1e-9)
    np.testing.assert_allclose((got.low, got.high), expected.confidence_interval(0.9), rtol=1e-9, atol=1e-12)
    assert got.delta == pytest.approx(np.mean(a) - np.mean(b))
    assert (got.n_a, got.n_b, got.reason) == (len(a), len(b), "")


def test_relative_difference_and_hedges_g():
    a, b = [0.82, 0.80, 0.84, 0.81], [0.78, 0.77, 0.80, 0.75]
    got = welch_test(a, b)
    assert got.delta_relative == pytest.approx(np.mean(a) / np.mean(b) - 1)
    pooled = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    exact = math.gamma(3) / (math.sqrt(3) * math.gamma(2.5))
    assert got.hedges_g == pytest.approx(exact * (np.mean(a) - np.mean(b)) / pooled)
    assert exact == pytest.approx(1 - 3 / (4 * 8 - 9), abs=5e-3)  # Hedges' approximation


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([0.8], [0.7, 0.6], "one_run"),
        ([], [0.7, 0.6], "one_run"),
        ([0.8, 0.8], [0.7, 0.7], "no_variance"),
        ([0.8, math.nan], [0.7, 0.6], "undefined_metric"),
    ],
)
def test_undefined_has_a_reason(a, b, reason):
    assert reason in tests.REASONS
    for got in (welch_test(a, b), tost_welch(a, b, 0.02)):
        assert got.reason == reason
        assert math.isnan(got.p)
    assert math.isnan(power.smallest_detectable_welch(a, b, alpha=0.05))


def test_the_last_bit_is_no_variance():
    a, b = [0.1 + 0.2, 0.3], [0.2, 0.2]
    assert len(set(a)) == 2
    assert welch_test(a, b).reason == "no_variance"
    assert tost_welch(a, b, 0.02).reason == "no_variance"
    assert welch_test([0.0, 0.0], [0.0, 1e-13]).reason == ""


def test_one_side_without_variance_is_still_tested():
    b = [0.7, 0.72, 0.69]
    got = welch_test([0.8, 0.8, 0.8], b)
    expected = stats.ttest_ind_from_stats(0.8, 0.0, 3, np.mean(b), np.std(b, ddof=1), 3, equal_var=False)
    assert got.reason == ""
    assert got.p == pytest.approx(expected.pvalue)


@settings(max_examples=40, deadline=None)
@given(runs, runs, st.floats(0.01, 0.5))
def test_tost_is_statsmodels(a, b, margin):
    if not _spread(a, b):
        return
    expected, *_ = CompareMeans(DescrStatsW(a), DescrStatsW(b)).ttost_ind(-margin, margin, usevar="unequal")
    got = tost_welch(a, b, margin)
    assert got.p == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert got.p == max(got.p_above, got.p_below)


@settings(max_examples=60, deadline=None)
@given(runs, st.floats(0, 1, width=32), st.sampled_from("ab"), st.integers(1, 3))
def test_against_a_fixed_value_it_is_scipys_one_sample_test(varying, value, fixed, times):
    if not _spread(varying):
        return
    a, b = ([value] * times, varying) if fixed == "a" else (varying, [value] * times)
    sign = -1 if fixed == "a" else 1
    got = welch_test(a, b, level=0.9, fixed=fixed)
    expected = stats.ttest_1samp(varying, value)
    np.testing.assert_allclose(
        (got.t, got.df, got.p), (sign * expected.statistic, expected.df, expected.pvalue), rtol=1e-9, atol=1e-9
    )
    interval = expected.confidence_interval(0.9)  # of the mean, not of the difference
    ends = sorted(sign * (np.array([interval.low, interval.high]) - value))
    np.testing.assert_allclose((got.low, got.high), ends, rtol=1e-9, atol=1e-9)
    assert got.delta == pytest.approx(np.mean(a) - np.mean(b))
    margin = 0.1
    tost = tost_welch(a, b, margin, fixed=fixed)
    above = stats.ttest_1samp(varying, value - margin, alternative="greater").pvalue
    below = stats.ttest_1samp(varying, value + margin, alternative="less").pvalue
    assert tost.p == pytest.approx(max(above, below), rel=1e-9, abs=1e-12)


def test_effect_size_against_a_fixed_value():
    b = [0.78, 0.77, 0.80, 0.75]
    got = welch_test([0.82], b, fixed="a")
    exact = math.sqrt(2 / 3) * math.gamma(1.5) / math.gamma(1.0)
    assert got.hedges_g == pytest.approx(exact * (0.82 - np.mean(b)) / np.std(b, ddof=1))
    assert math.isnan(welch_test([0.82], b[:2], fixed="a").hedges_g)
    assert welch_test([0.82], b[:2], fixed="a").p == pytest.approx(stats.ttest_1samp(b[:2], 0.82).pvalue)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([0.8], [0.7], "one_run"),
        ([], [0.7, 0.6], "one_run"),
        ([0.8], [0.7, 0.7], "no_variance"),
        ([0.8], [0.7, math.nan], "undefined_metric"),
        ([math.nan, 0.8], [0.7, 0.6], "undefined_metric"),
    ],
)
def test_undefined_against_a_fixed_value_has_a_reason(a, b, reason):
    for got in (welch_test(a, b, fixed="a"), tost_welch(a, b, 0.02, fixed="a"), welch_test(b, a, fixed="b")):
        assert got.reason == reason
        assert math.isnan(got.p)
    assert math.isnan(power.smallest_detectable_welch(a, b, alpha=0.05, fixed="a"))


def test_a_fixed_side_with_two_values_is_refused():
    with pytest.raises(ValueError, match="side a is not one fixed value"):
        welch_test([0.8, 0.81], [0.7, 0.6], fixed="a")


@pytest.mark.parametrize("n", [2, 4, 10])
def test_smallest_detectable_difference_from_a_fixed_value_is_statsmodels(n):
    b = np.linspace(0.7, 0.8, n)
    got = power.smallest_detectable_welch([0.9], b, alpha=0.05, fixed="a")
    assert got == power.smallest_detectable_welch(b, [0.9], alpha=0.05, fixed="b")
    sd = b.std(ddof=1)
    df, error = n - 1, sd / math.sqrt(n)
    assert power.welch_power(got, error, df, 0.05) == pytest.approx(0.8, abs=1e-9)
    assert power.welch_power(0.5 * sd, error, df, 0.05) == pytest.approx(TTestPower().power(0.5, n, 0.05), abs=1e-10)
    if n == 10:
        assert got / sd == pytest.approx(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8), rel=1e-6)


def test_equivalence_needs_the_interval_inside_the_margin():
    assert inside_margin(-0.01, 0.015, 0.02)
    assert not inside_margin(-0.02, 0.015, 0.02)
    assert not inside_margin(-0.01, 0.03, 0.02)
    assert not inside_margin(math.nan, math.nan, 0.02)
    with pytest.raises(ValueError, match="margin must be positive"):
        tost_welch([0.1, 0.2], [0.1, 0.2], 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12))
def test_holm_is_statsmodels(p):
    np.testing.assert_allclose(correction.holm(np.array(p)), multipletests(p, method="holm")[1], atol=1e-12)
    with_undefined = correction.holm(np.array([math.nan, *p]))
    assert math.isnan(with_undefined[0])
    np.testing.assert_array_equal(with_undefined[1:], correction.holm(np.array(p)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=12))
def test_a_comparison_is_rejected_where_its_p_is_below_its_holm_level(p):
    p = np.array(p)
    alphas = correction.holm_alphas(p, 0.05)
    rejected = correction.holm(p) < 0.05
    # A p that lies on its level to the last bit can fall on either side.
    clear = np.abs(p - alphas) > 1e-12
    np.testing.assert_array_equal((p < alphas)[clear], rejected[clear])
    assert alphas.min() >= 0.05 / len(p)
    assert alphas.max() <= 0.05


@pytest.mark.parametrize("n", [2, 4, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.004])
def test_smallest_detectable_difference_is_statsmodels(n, alpha):
    """Equal groups with equal spread: Welch's degrees of freedom are Student's, so statsmodels' power applies."""
    a = np.linspace(0.7, 0.8, n)
    got = power.smallest_detectable_welch(a, a + 0.1, alpha=alpha)
    sd = a.std(ddof=1)
    df, error = 2 * n - 2, sd * math.sqrt(2 / n)
    assert power.welch_power(got, error, df, alpha) == pytest.approx(0.8, abs=1e-9)
    small = 0.5 * sd  # statsmodels' noncentral t gives NaN far from 0
    expected = TTestIndPower().power(small / sd, n, alpha)
    assert power.welch_power(small, error, df, alpha) == pytest.approx(expected, abs=1e-10)
    assert power.welch_power(0.0, error, df, alpha) == pytest.approx(alpha, abs=1e-10)


def test_smallest_detectable_difference_of_the_bootstrap():
    got = power.smallest_detectable_bootstrap(0.01, alpha=0.05)
    assert got == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-6)
    shifted = stats.norm(got / 0.01, 1)
    assert shifted.sf(1.959964) == pytest.approx(0.8, abs=1e-4)
