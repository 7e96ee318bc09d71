"""Curves for figures: scikit-learn's ROC and calibration curves, and intervals that a plain loop gives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from radnet_jax.evaluation.metrics.calibration import bin_of
from radnet_jax.evaluation.statistics.delong import delong_interval, delong_interval_of_mean, delong_test
from radnet_jax.evaluation.statistics.diagrams import GRID, mean_roc, reliability
from radnet_jax.evaluation.statistics.draws import resample_counts


def _problem(seed, n=120, k=2, digits=2):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, k)) < 0.4
    scores = (1 / (1 + np.exp(-rng.normal(1.5 * labels)))).round(digits)
    return scores, labels, rng.integers(0, n // 3, n)


def _step(scores, labels):
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return np.array([true[false <= x + 1e-9].max() for x in GRID])


@pytest.mark.parametrize("seed", range(4))
def test_the_roc_curve_is_the_mean_of_scikit_learns(seed):
    scores, labels, groups = _problem(seed)
    other = _problem(seed + 100)[0]
    found = mean_roc([scores, other], labels, groups=groups, n_resamples=20)
    expected = [_step(s[:, j], labels[:, j]) for s in (scores, other) for j in range(2)]
    np.testing.assert_allclose(found.sensitivity, np.mean(expected, axis=0), atol=1e-12)
    assert found.n_labels == 2
    assert (found.low <= found.high).all()


def test_the_band_is_that_of_the_repeated_cases():
    scores, labels, groups = _problem(0, k=1)
    names, index = np.unique(groups, return_inverse=True)
    drawn = []
    for counts in np.concatenate(list(resample_counts(len(names), 30, 5))):
        cases = np.repeat(np.arange(len(index)), counts[index])
        drawn.append(_step(scores[cases, 0], labels[cases, 0]))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    found = mean_roc([scores], labels, groups=groups, n_resamples=30, level=0.9, seed=5)
    np.testing.assert_allclose(found.low, low, atol=1e-12)
    np.testing.assert_allclose(found.high, high, atol=1e-12)


def test_a_label_of_one_class_has_no_curve_and_is_left_out():
    scores, labels, groups = _problem(1)
    labels[:, 1] = False
    one = mean_roc([scores], labels, groups=groups, n_resamples=10)
    alone = mean_roc([scores[:, :1]], labels[:, :1], groups=groups, n_resamples=10)
    assert one.n_labels == 1
    np.testing.assert_array_equal(one.sensitivity, alone.sensitivity)
    nothing = mean_roc([scores], np.zeros_like(labels), groups=groups, n_resamples=10)
    assert nothing.n_labels == 0
    assert np.isnan(nothing.sensitivity).all()
    masked = mean_roc([scores], labels, groups=groups, label_mask=np.zeros_like(labels), n_resamples=10)
    assert masked.n_labels == 0
    scores[0, 0] = np.nan
    assert mean_roc([scores], labels, groups=groups, n_resamples=10).n_labels == 0


@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_scikit_learns(seed):
    scores, labels, groups = _problem(seed, digits=6)
    found = reliability([scores], [labels], groups=groups, n_resamples=50)
    happened, said = calibration_curve(labels.ravel(), scores.ravel(), n_bins=10)
    full = found.cases > 0
    np.testing.assert_allclose(found.happened[full], happened, atol=1e-12)
    np.testing.assert_allclose(found.said[full], said, atol=1e-12)
    assert found.cases.sum() == scores.size
    inside = full & ~np.isnan(found.low)
    assert (found.low[inside] <= found.high[inside]).all()


def test_reliability_counts_what_is_known_and_pools_runs():
    scores, labels, groups = _problem(2)
    known = np.random.default_rng(0).random(labels.shape) < 0.5
    half = reliability([scores], [labels], groups=groups, known=known, n_resamples=10)
    np.testing.assert_array_equal(half.cases, np.bincount(bin_of(scores, 10)[known], minlength=10))
    twice = reliability([scores, scores], [labels, labels], groups=groups, n_resamples=10)
    once = reliability([scores], [labels], groups=groups, n_resamples=10)
    np.testing.assert_array_equal(twice.cases, 2 * once.cases)
    np.testing.assert_allclose(twice.low, once.low)
    alone = reliability([scores], [labels], groups=np.zeros(len(scores), int), n_resamples=10)
    assert np.isnan(alone.low).all()  # one patient says nothing of others


def test_the_mean_area_has_the_variance_of_correlated_runs():
    scores, labels, groups = _problem(3, k=1)
    other = np.clip(scores + np.random.default_rng(1).normal(0, 0.2, scores.shape), 0, 1)
    a, b = (delong_interval(s, labels, groups=groups) for s in (scores, other))
    mean = delong_interval_of_mean([scores, other], labels, groups=groups)
    difference = delong_test(scores, other, labels, groups=groups)
    assert mean.value == pytest.approx((a.value + b.value) / 2)
    # Var(mean) = (Var a + Var b) / 2 - Var(difference) / 4
    expected = (a.standard_error**2 + b.standard_error**2) / 2 - difference.standard_error**2 / 4
    assert mean.standard_error**2 == pytest.approx(expected, rel=1e-9)
    same = delong_interval_of_mean([scores, scores], labels, groups=groups)
    assert same.standard_error == pytest.approx(a.standard_error)
