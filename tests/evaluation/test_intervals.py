"""DeLong's intervals and test, intervals over seeds, both at once, and subgroups."""

import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import REASONS
from radnet_jax.evaluation.statistics import bootstrap, delong, seeds
from radnet_jax.evaluation.statistics.bootstrap import bootstrap_interval
from radnet_jax.evaluation.statistics.delong import delong_interval, delong_test
from radnet_jax.evaluation.statistics.seeds import hierarchical_interval, t_interval
from radnet_jax.evaluation.statistics.subgroups import subgroup_intervals

# DeLong et al. 1988, section 4: 43 of the patients (albumin, total protein, K-G score; 1: surgery helped), as the
# user's guide of SAS/STAT prints them in its example "Comparing Receiver Operating Characteristic Curves".
OVARIAN = np.fromstring(
    """3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
    1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
    4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
    3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
    3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
    3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
    3.6 6.6  5 1""",
    sep=" ",
).reshape(-1, 4)


@pytest.mark.parametrize(
    ("column", "sign", "printed"),
    [
        (0, 1, (0.7366, 0.0927, 0.5549, 0.9182)),
        (1, 1, (0.6478, 0.1000, 0.4518, 0.8439)),
        (2, -1, (0.7258, 0.1028, 0.5243, 0.9273)),
    ],
)
def test_intervals_of_the_published_example(column, sign, printed):
    got = delong_interval(sign * OVARIAN[:, column], OVARIAN[:, 3], groups=None)
    assert np.round([got.value, got.standard_error, got.low, got.high], 4).tolist() == list(printed)
    assert (got.n_positive, got.n_negative, got.n_groups) == (31, 12, 43)


@pytest.mark.parametrize(
    ("column", "printed"),
    [(0, (0.0108, 0.0953, -0.1761, 0.1976, 0.0127, 0.9102)), (1, (-0.0780, 0.1046, -0.2830, 0.1271, 0.5554, 0.4561))],
)
def test_test_of_the_published_example(column, printed):
    got = delong_test(OVARIAN[:, column], -OVARIAN[:, 2], OVARIAN[:, 3], groups=None)
    numbers = [got.difference, got.standard_error, got.low, got.high, got.z**2, got.p]
    assert np.round(numbers, 4).tolist() == list(printed)


def _two_models(seed, n, levels, n_groups):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3 == 0).astype(int)
    a, b = (np.round(rng.normal(labels) * levels) / levels for _ in range(2))
    return a, b, labels, rng.integers(0, n_groups, n)


def _obuchowski(scores, labels, group):
    """The covariance of the areas by the paper's double sums over pairs of cases."""
    pos, neg = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    psi = [(s[pos][:, None] > s[neg]) + 0.5 * (s[pos][:, None] == s[neg]) for s in scores]
    areas = np.array([p.mean() for p in psi])
    names = np.unique(group)
    x = np.array([[(p.mean(1) - a)[group[pos] == g].sum() for p, a in zip(psi, areas)] for g in names])
    y = np.array([[(p.mean(0) - a)[group[neg] == g].sum() for p, a in zip(psi, areas)] for g in names])
    m, n, i = len(pos), len(neg), len(names)
    i10, i01 = len(set(group[pos])), len(set(group[neg]))
    s10, s01 = i10 / ((i10 - 1) * m) * x.T @ x, i01 / ((i01 - 1) * n) * y.T @ y
    s11 = i / (i - 1) * x.T @ y
    return areas, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(7, 60), st.sampled_from([1, 3, 10**6]), st.integers(3, 40))
def test_delong_is_the_double_sum_over_pairs(seed, n, levels, n_groups):
    a, b, labels, group = _two_models(seed, n, levels, n_groups)
    if min(len(set(group[labels == c])) for c in (0, 1)) < 2:
        return
    areas, covariance = _obuchowski([a, b], labels, group)
    one, two = delong_interval(a, labels, groups=group), delong_test(a, b, labels, groups=group)
    assert abs(one.value - roc_auc_score(labels, a)) < 1e-12
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert one.standard_error**2 == pytest.approx(covariance[0, 0], abs=1e-12)
    assert two.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if not two.reason:
        z = (areas[0] - areas[1]) / math.sqrt(variance)
        assert two.z == pytest.approx(z, rel=1e-7, abs=1e-9)
        assert two.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-7, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(7, 60), st.sampled_from([1, 10**6]))
def test_with_one_case_a_patient_it_is_delongs_own_formula(seed, n, levels):
    """DeLong et al., eqs. 5 and 6, by sample covariances of the structural components."""
    a, b, labels, _ = _two_models(seed, n, levels, 3)
    pos, neg = labels == 1, labels == 0
    psi = [(s[pos][:, None] > s[neg]) + 0.5 * (s[pos][:, None] == s[neg]) for s in (a, b)]
    v10, v01 = np.cov([p.mean(1) for p in psi]), np.cov([p.mean(0) for p in psi])
    covariance = v10 / pos.sum() + v01 / neg.sum()
    got = delong_test(a, b, labels, groups=None)
    if not got.reason:
        expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        assert got.standard_error**2 == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_copies_of_a_case_are_no_new_evidence_for_delong():
    a, b, labels, _ = _two_models(0, 60, 10**6, 3)
    once = delong_test(a, b, labels, groups=None)
    copies = [np.repeat(x, 5) for x in (a, b, labels)]
    assert delong_test(*copies, groups=np.repeat(np.arange(60), 5)).p == pytest.approx(once.p, rel=1e-9)
    assert delong_test(*copies, groups=None).p < once.p


def test_masked_cases_do_not_count_for_delong():
    a, b, labels, group = _two_models(1, 40, 10**6, 30)
    mask = np.arange(40) < 30
    got = delong_test(a, b, labels, label_mask=mask, groups=group)
    assert got == delong_test(a[mask], b[mask], labels[mask], groups=group[mask])


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "reason"),
    [
        ([0, 0, 0], [1, 2, 3], None, "one_class"),
        ([0, 1, 1, 0], [1, math.nan, 3, 2], None, "nan_scores"),
        ([0, 1, 1, 0], [1, 2, 3, 4], [0, 1, 1, 2], "one_patient_of_a_class"),
        ([0, 1, 1, 0], [1, 3, 4, 2], None, "no_variance"),
        ([], [], None, "no_cases"),
    ],
)
def test_delong_has_a_reason_where_it_is_undefined(labels, scores, groups, reason):
    got = delong_interval(scores, labels, groups=groups)
    assert got.reason == reason
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    two = delong_test(scores, scores, labels, groups=groups)
    assert two.reason == reason
    assert math.isnan(two.p)
    assert reason in delong.REASONS | REASONS


def test_two_models_that_rank_alike_have_no_variance():
    a, _, labels, _ = _two_models(2, 50, 10**6, 3)
    assert delong_test(a, np.exp(a), labels, groups=None).reason == "no_variance"


def test_delong_is_of_one_label():
    with pytest.raises(ValueError, match="of one label"):
        delong_interval(np.zeros((4, 2)), np.zeros((4, 2)), groups=None)
    with pytest.raises(TypeError, match="groups"):
        delong_test([1, 2], [1, 2], [0, 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12), st.sampled_from([0.8, 0.95, 0.99]))
def test_t_interval_is_scipys(values, level):
    got = t_interval(values, level=level)
    if np.ptp(values) > 1e-6:
        expected = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
        np.testing.assert_allclose((got.low, got.high), expected, rtol=1e-9, atol=1e-12)
    assert got.low <= got.mean <= got.high


def test_t_interval_has_a_reason():
    assert t_interval([0.8]).reason == "one_run"
    assert t_interval([]).reason == "one_run"
    assert t_interval([0.8, math.nan]).reason == "undefined_metric"
    assert math.isnan(t_interval([0.8]).low)
    assert {"one_run", "undefined_metric"} <= set(seeds.REASONS)


def _runs(n_seeds, n, rng, *, seed_sd=0.0):
    labels = np.eye(2)[rng.integers(0, 2, n)]
    quality = 1 + seed_sd * rng.normal(size=n_seeds)
    noise = rng.normal(size=n)
    return [labels * q + np.stack([noise, 0 * noise], 1) for q in quality], labels


def test_seeds_and_patients_together_are_wider_than_patients_alone():
    scores, labels = _runs(10, 80, np.random.default_rng(0), seed_sd=0.5)
    groups = np.arange(80) // 2
    got = hierarchical_interval("accuracy", scores, labels, groups=groups, n_resamples=1000, seed=3)
    assert (got.n_seeds, got.n_groups, got.reason) == (10, 40, "")
    assert got.standard_error > 1.2 * got.standard_error_patients
    r = bootstrap.resample("accuracy", scores, labels, groups=groups, n_resamples=1000, seed=3)
    drawn = np.random.default_rng([3, 0, 1]).integers(0, 10, (10, 1000))
    values = [np.mean([r.values[s, b] for s in drawn[:, b]]) for b in range(1000)]
    np.testing.assert_allclose((got.low, got.high), np.quantile(values, [0.025, 0.975]), atol=1e-12)


def test_equal_runs_leave_the_patients_interval():
    scores, labels = _runs(1, 80, np.random.default_rng(1))
    got = hierarchical_interval("accuracy", scores * 10, labels, groups=None, n_resamples=500)
    alone = bootstrap_interval("accuracy", scores[0], labels, groups=None, n_resamples=500, method="percentile")
    assert (got.low, got.high) == pytest.approx((alone.low, alone.high))


def test_resampling_over_few_seeds_is_refused():
    scores, labels = _runs(9, 20, np.random.default_rng(0))
    with pytest.raises(UserError, match="Resampling over seeds only from 10 seeds up"):
        hierarchical_interval("accuracy", scores, labels, groups=None)


def test_subgroups_are_the_intervals_of_their_cases():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 2)), np.eye(2)[rng.integers(0, 2, 60)]
    groups, sex = np.arange(60) // 2, np.where(np.arange(60) // 2 % 2, "F", "M")
    site = [None if i < 4 else math.nan if i < 6 else "" if i < 8 else int(i > 30) for i in range(60)]
    got = subgroup_intervals(
        "accuracy", scores, labels, {"sex": sex, "site": site}, groups=groups, n_resamples=200, level=0.9
    )
    assert [(g.fact, g.value, g.n_cases) for g in got] == [
        ("sex", "F", 30), ("sex", "M", 30), ("site", "0", 23), ("site", "1", 29), ("site", "unknown", 8),
    ]  # fmt: skip
    rows = sex == "M"
    expected = bootstrap_interval(
        "accuracy", scores[rows], labels[rows], groups=groups[rows], n_resamples=200, level=0.9
    )
    assert got[1].interval == expected
    assert got[1].interval.n_groups == 15


def test_a_subgroup_of_one_class_is_listed_with_its_reason():
    labels, scores = (np.arange(40) % 2)[:, None], np.random.default_rng(0).random((40, 1))
    scanner = np.where(np.arange(40) < 20, "a", np.where(labels[:, 0] == 1, "b", "a"))
    got = subgroup_intervals(
        "auroc", scores, labels, {"scanner": scanner}, groups=None, strata=labels[:, 0], n_resamples=50
    )
    assert [(g.value, g.interval.reason) for g in got] == [("a", ""), ("b", "undefined_metric")]
    with pytest.raises(ValueError, match="2 values of sex for 40 cases"):
        subgroup_intervals("auroc", scores, labels, {"sex": ["F", "M"]}, groups=None)


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})
    value, paired, p = capsys.readouterr().out.splitlines()
    assert value.startswith("0.8")
    assert "200 patients" in value
    assert paired.startswith("+0.06")
    assert 0 < float(p) < 0.05
