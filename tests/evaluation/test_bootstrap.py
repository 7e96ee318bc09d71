"""The bootstrap over patients: fast paths against the plain loop, intervals against SciPy, coverage by simulation."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import METRICS, task_kinds
from radnet_jax.evaluation.metrics.classification import accuracy
from radnet_jax.evaluation.statistics import bootstrap, draws
from radnet_jax.evaluation.statistics.bootstrap import bootstrap_interval, paired_bootstrap, resample
from radnet_jax.evaluation.statistics.draws import resample_counts
from radnet_jax.evaluation.statistics.weighted import plain_loop, weighted_metric


def _problem(seed, n, k, n_groups, *, one_hot):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 7, (n, k)) / 7  # many ties
    if one_hot:
        labels, mask = np.eye(k)[rng.integers(0, k, n)], np.repeat(rng.random((n, 1)) < 0.8, k, axis=1).astype(int)
    else:
        labels, mask = (rng.random((n, k)) < 0.3).astype(int), (rng.random((n, k)) < 0.8).astype(int)
    return scores, labels, mask, rng.integers(0, n_groups, n)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 4), st.integers(1, 12), st.sampled_from(METRICS.names())
)
def test_fast_paths_equal_the_plain_loop_for_the_same_resamples(seed, n, k, n_groups, name):
    scores, labels, mask, group = _problem(seed, n, k, n_groups, one_hot="multi_label" not in task_kinds(name))
    fast = weighted_metric(name, scores, labels, mask, group, n_groups)
    loop = plain_loop(METRICS.get(name), scores, labels, mask, group, n_groups)
    counts = next(resample_counts(n_groups, 20, seed))
    np.testing.assert_allclose(fast(counts), loop(counts), rtol=0, atol=1e-12)  # NaN stands at the same places
    np.testing.assert_allclose(fast.jackknife(), loop.jackknife(), rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60), st.integers(1, 20), st.sampled_from([2, 7, 10**6]))
def test_auroc_of_resamples_is_scikit_learns(seed, n, n_groups, levels):
    rng = np.random.default_rng(seed)
    scores, labels, group = rng.integers(0, levels, n) / levels, rng.integers(0, 2, n), rng.integers(0, n_groups, n)
    counts = np.concatenate(list(resample_counts(n_groups, 20, seed)))
    got = weighted_metric("auroc", scores[:, None], labels[:, None], None, group, n_groups)(counts)
    for value, row in zip(got, counts):
        cases = np.repeat(np.arange(n), row[group])
        if len(set(labels[cases])) < 2:
            assert math.isnan(value)
        else:
            assert abs(value - roc_auc_score(labels[cases], scores[cases])) < 1e-12


def test_strata_keep_their_sizes():
    stratum = np.array([0] * 10 + [1] * 25 + [2])
    counts = np.concatenate(list(resample_counts(36, 200, 0, stratum)))
    np.testing.assert_array_equal(counts @ np.eye(3, dtype=int)[stratum], np.tile([10, 25, 1], (200, 1)))
    assert abs(counts[:, :10].var() - 0.9) < 0.1
    one = np.concatenate(list(resample_counts(36, 200, 0)))
    np.testing.assert_array_equal(one, np.concatenate(list(resample_counts(36, 200, 0, np.zeros(36, int)))))


def test_strata_make_a_rare_class_defined_in_every_resample():
    labels, scores = (np.arange(40) < 3)[:, None], np.random.default_rng(0).random((40, 1))
    kwargs = {"groups": None, "n_resamples": 300, "method": "percentile"}
    assert bootstrap_interval("auroc", scores, labels, **kwargs).n_undefined > 0
    assert bootstrap_interval("auroc", scores, labels, strata=labels[:, 0], **kwargs).n_undefined == 0


def test_a_patient_in_two_strata_is_refused():
    labels = np.eye(2)[[0, 1, 0, 1]]
    with pytest.raises(UserError, match="1 patients in several strata"):
        bootstrap_interval("accuracy", labels, labels, groups=[0, 0, 1, 2], strata=["a", "b", "a", "b"])
    with pytest.raises(ValueError, match="3 strata for 4 cases"):
        bootstrap_interval("accuracy", labels, labels, groups=None, strata=["a", "b", "a"])


def test_bca_within_strata_is_scipys_of_two_samples():
    rng = np.random.default_rng(3)
    x, y = rng.exponential(size=15), rng.exponential(size=40)

    def ratio(x, y, axis=-1):
        return x.mean(axis=axis) / y.mean(axis=axis)

    result = stats.bootstrap((x, y), ratio, n_resamples=999, method="BCa", rng=np.random.default_rng(1))
    jackknife = [ratio(np.delete(x, i), y) for i in range(15)] + [ratio(x, np.delete(y, i)) for i in range(40)]
    stratum = np.array([0] * 15 + [1] * 40)
    got = bootstrap.bca_interval(result.bootstrap_distribution, ratio(x, y), np.array(jackknife), 0.95, stratum)
    np.testing.assert_allclose(got, result.confidence_interval, rtol=1e-9)


def test_any_function_of_rows_will_do():
    """A metric of one's own: a plain number from scores without columns, here the root mean square error."""
    rng = np.random.default_rng(0)
    scores, labels = rng.random(30), rng.random(30)
    got = bootstrap_interval(lambda s, y, mask: math.sqrt(np.mean((s - y) ** 2)), scores, labels, groups=None,
                             n_resamples=200)  # fmt: skip
    assert got.value == pytest.approx(np.sqrt(np.mean((scores - labels) ** 2)))
    assert got.low < got.value < got.high
    assert got.method == "bca"


def test_resamples_do_not_depend_on_how_they_are_blocked(monkeypatch):
    stratum = np.arange(50) % 3
    whole = np.concatenate(list(resample_counts(50, 64, 0, stratum)))
    monkeypatch.setattr(draws, "_CELLS", 1)
    blocks = list(resample_counts(50, 64, 0, stratum))
    assert len(blocks) == 4
    np.testing.assert_array_equal(whole, np.concatenate(blocks))


def test_resamples_draw_patients_and_depend_on_the_seed_only():
    blocks = list(resample_counts(30, 600, seed=5))
    counts = np.concatenate(blocks)
    assert counts.shape == (600, 30)
    assert (counts.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(counts, np.concatenate(list(resample_counts(30, 600, seed=5))))
    np.testing.assert_array_equal(counts[:512], np.concatenate(list(resample_counts(30, 512, seed=5))))
    assert (counts != np.concatenate(list(resample_counts(30, 600, seed=6)))).any()
    assert abs(counts.var() - 29 / 30) < 0.05  # multinomial


def test_a_function_gives_what_its_name_gives_by_the_loop():
    scores, labels, mask, group = _problem(0, 60, 3, 15, one_hot=True)
    kwargs = {"groups": group, "label_mask": mask, "n_resamples": 50}
    assert bootstrap_interval(accuracy, scores, labels, **kwargs) == pytest.approx(
        bootstrap_interval("accuracy", scores, labels, **kwargs)
    )


def test_bca_and_percentile_are_scipys_for_the_same_resampled_values():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=40)  # skewed, so that BCa differs from percentile
    for method in ("BCa", "percentile"):
        result = stats.bootstrap(
            (x,), np.mean, n_resamples=999, method=method, confidence_level=0.9, rng=np.random.default_rng(1)
        )
        jackknife = np.array([np.delete(x, i).mean() for i in range(len(x))])
        got = (
            bootstrap.bca_interval(result.bootstrap_distribution, x.mean(), jackknife, 0.9)
            if method == "BCa"
            else bootstrap.percentile_interval(result.bootstrap_distribution, 0.9)
        )
        np.testing.assert_allclose(got, result.confidence_interval, rtol=1e-10)


def test_jackknife_leaves_out_one_patient_at_a_time():
    scores, labels, mask, group = _problem(2, 80, 3, 10, one_hot=True)
    r = resample("auroc", [scores], labels, groups=group, label_mask=mask, n_resamples=10)
    metric = METRICS.get("auroc")
    expected = [metric(scores[group != g], labels[group != g], mask[group != g]).value for g in range(10)]
    np.testing.assert_allclose(r.jackknife[0], expected, atol=1e-12)
    np.testing.assert_allclose(r.points[0], metric(scores, labels, mask).value, atol=1e-12)


def test_patients_with_many_cases_widen_the_interval():
    """Ten copies of each case are no new evidence: the clustered interval stays, the unclustered one shrinks."""
    rng = np.random.default_rng(0)
    labels, scores = np.eye(3)[rng.integers(0, 3, 50)], rng.random((50, 3))
    once = bootstrap_interval("accuracy", scores, labels, groups=None, n_resamples=2000)
    copies = {"scores": np.repeat(scores, 10, axis=0), "labels": np.repeat(labels, 10, axis=0)}
    clustered = bootstrap_interval("accuracy", **copies, groups=np.repeat(np.arange(50), 10), n_resamples=2000)
    naive = bootstrap_interval("accuracy", **copies, groups=None, n_resamples=2000)
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage_is_near_the_level(method):
    """Clustered accuracies with a known mean: 90 % intervals cover it in 85 to 95 % of 300 trials."""
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        p = np.repeat(rng.beta(7, 3, 60), 3)  # three cases a patient, mean 0.7
        correct = (rng.random(180) < p).astype(float)
        scores = np.stack([correct, 1 - correct], axis=1)
        labels = np.tile([1, 0], (180, 1))
        i = bootstrap_interval(
            "accuracy", scores, labels, groups=np.repeat(np.arange(60), 3), level=0.9, n_resamples=400,
            method=method, seed=trial,
        )  # fmt: skip
        covered += i.low <= 0.7 <= i.high
    assert 0.85 <= covered / 300 <= 0.95


def test_paired_difference_pairs_the_patients():
    rng = np.random.default_rng(0)
    n = 300
    labels = np.eye(2)[rng.integers(0, 2, n)]
    difficulty = rng.normal(size=n)

    def scores(skill):
        right = (difficulty < skill).astype(float)
        return np.where(labels == 1, right[:, None], 1 - right[:, None])

    groups = np.arange(n) // 3
    better, worse = scores(0.5), scores(0.2)
    paired = paired_bootstrap("accuracy", [better], [worse], labels, groups=groups, n_resamples=2000)
    alone = bootstrap_interval("accuracy", better, labels, groups=groups, n_resamples=2000)
    assert paired.low > 0
    assert paired.p == 2 / 2001  # the floor: no resample says otherwise
    assert paired.high - paired.low < alone.high - alone.low  # shared difficulty cancels
    assert paired.difference == pytest.approx(
        METRICS.get("accuracy")(better, labels).value - METRICS.get("accuracy")(worse, labels).value
    )


def test_paired_difference_is_the_loop_over_resamples_of_means_over_runs():
    scores, labels, mask, _ = _problem(5, 90, 3, 30, one_hot=True)
    group = np.arange(90) // 3
    rng = np.random.default_rng(0)
    a, b = [rng.random(scores.shape) for _ in range(3)], [rng.random(scores.shape) for _ in range(2)]
    got = paired_bootstrap("auroc", a, b, labels, groups=group, label_mask=mask, level=0.9, n_resamples=100, seed=3)
    metric, values = METRICS.get("auroc"), []
    for row in np.concatenate(list(resample_counts(30, 100, 3))):
        cases = np.repeat(np.arange(90), row[group])
        means = [np.mean([metric(s[cases], labels[cases], mask[cases]).value for s in side]) for side in (a, b)]
        values.append(means[0] - means[1])
    np.testing.assert_allclose((got.low, got.high), np.quantile(values, [0.05, 0.95]), atol=1e-12)
    tail = min(np.sum(np.array(values) <= 0), np.sum(np.array(values) >= 0))
    assert got.p == pytest.approx(min(1, 2 * (tail + 1) / 101))


@pytest.mark.parametrize(
    ("below", "at", "above", "expected"),
    [
        (0, 0, 99, 2 / 100),
        (99, 0, 0, 2 / 100),
        (1, 0, 98, 4 / 100),
        (50, 0, 49, 1.0),
        (0, 99, 0, 1.0),
        (1, 2, 96, 0.08),
    ],
)
def test_p_is_twice_the_one_sided_one(below, at, above, expected):
    """Davison and Hinkley 1997, eq. 4.11: (1 + how many are at least as extreme) / (B + 1), on either side."""
    values = np.repeat([-0.1, 0.0, 0.1], [below, at, above])
    assert bootstrap.bootstrap_p(values) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 300), st.floats(-3, 3), st.sampled_from([0.01, 0.05, 0.2]))
def test_where_p_is_below_alpha_the_interval_leaves_zero_out(seed, n, shift, alpha):
    values = np.random.default_rng(seed).normal(shift, 1, n).round(1)
    low, high = bootstrap.percentile_interval(values, 1 - alpha)
    assert bootstrap.bootstrap_p(values) >= alpha or low > 0 or high < 0


def test_equal_starts_differ_by_nothing():
    """Means over 3 and over 4 equal runs differ in the last bit; that must not look like a difference."""
    scores, labels, mask, group = _problem(6, 60, 3, 20, one_hot=True)
    got = paired_bootstrap("auroc", [scores] * 3, [scores] * 4, labels, groups=group, label_mask=mask, n_resamples=200)
    assert (got.low, got.high, got.p) == (0, 0, 1)


def test_no_interval_has_a_reason():
    labels, scores = np.eye(2)[[0, 1, 0, 1]], np.full((4, 2), 0.5)
    assert bootstrap_interval("accuracy", scores, labels, groups=[1, 1, 1, 1], n_resamples=100).reason == "one_group"
    undefined = bootstrap_interval("accuracy", scores * np.nan, labels, groups=None, n_resamples=100)
    assert undefined.reason == "undefined_metric"
    assert math.isnan(undefined.low)
    rare = np.zeros((12, 1))
    rare[0] = 1  # in a third of the resamples no positive is drawn
    few = bootstrap_interval("auroc", np.arange(12.0)[:, None], rare, groups=None, n_resamples=200)
    assert few.reason == "undefined_resamples"
    assert 0.2 < few.n_undefined / 200 < 0.5
    assert math.isnan(few.high)


@pytest.mark.parametrize("name", ["auroc", "accuracy"])
def test_no_cases_have_a_reason(name):
    got = bootstrap_interval(name, np.zeros((0, 2)), np.zeros((0, 2)), groups=[], n_resamples=20)
    assert (got.reason, got.n_groups) == ("undefined_metric", 0)


@pytest.mark.parametrize(
    "groups",
    [["a", None, "b"], ["a", "", "b"], ["a", math.nan, "b"], [1.0, math.nan, 2.0], np.array([1.0, math.nan, 2.0]),
     np.array(["a", "", "b"]), np.array(["a", None, "b"])],
)  # fmt: skip
def test_cases_without_a_patient_are_refused(groups):
    labels = np.eye(2)[[0, 1, 1]]
    with pytest.raises(UserError, match="1 of 3 without"):
        bootstrap_interval("accuracy", labels, labels, groups=groups, n_resamples=20)


def test_a_perfect_start_has_an_interval():
    labels = np.eye(2)[[0, 1] * 20]
    got = bootstrap_interval("accuracy", labels, labels, groups=None, n_resamples=100)
    assert (got.value, got.low, got.high, got.reason) == (1, 1, 1, "")


def test_bca_falls_back_where_the_jackknife_is_undefined():
    """Without one of the patients the metric may not exist; all resamples on one side have no bias correction."""
    values = np.random.default_rng(0).normal(size=500)
    assert bootstrap.bca_interval(values, 0.0, np.array([0.1, np.nan, 0.2]), 0.95) is None
    assert bootstrap.bca_interval(values, 99.0, np.array([0.1, 0.3, 0.2]), 0.95) is None


def test_bad_arguments():
    labels = np.eye(2)[[0, 1]]
    with pytest.raises(ValueError, match="3 groups for 2 cases"):
        bootstrap_interval("accuracy", labels, labels, groups=[1, 2, 3])
    with pytest.raises(ValueError, match=r"\[3\] cases for labels of 2"):
        bootstrap_interval(lambda s, y, mask: 0.0, np.zeros(3), np.zeros(2), groups=None)
    with pytest.raises(ValueError, match="unknown method"):
        bootstrap_interval("accuracy", labels, labels, groups=None, method="normal")
    with pytest.raises(ValueError, match="level 95"):
        bootstrap_interval("accuracy", labels, labels, groups=None, level=95)
    with pytest.raises(UserError, match="unknown metric"):
        bootstrap_interval("acuracy", labels, labels, groups=None)
    with pytest.raises(TypeError, match="groups"):
        bootstrap_interval("accuracy", labels, labels)


@pytest.mark.parametrize(("metric", "share"), [("auroc", 0.36), ("f1", 0.36), ("accuracy", 0.0), ("label_brier", 0.0)])
def test_resamples_without_a_rare_label_are_counted(metric, share):
    """One patient of 60 has the second label: (59 / 60)^60 of the resamples lack it, and average the others."""
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 3))
    labels[np.arange(60), np.where(np.arange(60) == 7, 1, 2 * (np.arange(60) % 2))] = 1
    scores = rng.dirichlet(np.ones(3), 60)
    got = bootstrap_interval(metric, scores, labels, groups=None, n_resamples=2000)
    counts = np.concatenate(list(resample_counts(60, 2000, 0)))
    assert got.n_partial == ((counts[:, 7] == 0).sum() if share else 0)
    assert got.n_partial / 2000 == pytest.approx(share, abs=0.03)
    assert got.n_undefined == 0
    pair = paired_bootstrap(metric, [scores], [scores[::-1]], labels, groups=None, n_resamples=2000)
    assert pair.n_partial == got.n_partial
    assert bootstrap_interval(metric, scores, labels, groups=np.arange(60) % 4, n_resamples=50).n_groups == 4


def test_a_label_that_the_split_lacks_is_not_missed_in_resamples():
    labels = np.stack([np.arange(200) % 2, np.zeros(200)], axis=1)
    scores = np.random.default_rng(0).random((200, 2))
    assert bootstrap_interval("auroc", scores, labels, groups=None, n_resamples=200).n_partial == 0
