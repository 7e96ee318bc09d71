"""The jackknife over patients against CKA computed again without each group, and its coverage."""

import numpy as np
import pytest
from scipy import stats

from radnet_jax.analysis import intervals, similarity


def pair(draws, n, images=2):
    """Patients with some images each: what a patient has in common is in all of them."""
    cause = np.repeat(draws.standard_normal((n, 3)), images, axis=0)
    x, y = (np.tanh(cause @ w) + 0.8 * draws.standard_normal((n * images, 6)) for w in MIX)
    return x, y, np.repeat(np.arange(n), images)


MIX = np.random.default_rng(9).standard_normal((2, 3, 6))


def test_equals_cka_without_each_group():
    x, y, patients = pair(np.random.default_rng(0), 15)
    k, l = similarity.linear_gram(x), similarity.rbf_gram(y)  # noqa: E741
    groups = intervals.patient_groups(patients, most=6)
    without = []
    for group in range(6):
        kept = np.flatnonzero(groups != group)
        without.append(similarity.cka(k[np.ix_(kept, kept)], l[np.ix_(kept, kept)]))
    found = intervals.cka_interval(k, l, groups)
    assert found.value == pytest.approx(similarity.cka(k, l), rel=1e-9)
    half = stats.t.ppf(0.975, 5) * np.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))
    assert found.value - found.low == pytest.approx(half, rel=1e-6)
    assert found.groups == 6


def test_a_patient_is_in_one_group():
    patients = np.array([7, 7, 3, 3, 5, 9, 9, 1] * 3)
    groups = intervals.patient_groups(patients, most=3)
    assert sorted(np.unique(groups)) == [0, 1, 2]
    assert all(len(set(groups[patients == p])) == 1 for p in patients)


def test_coverage():
    """Of 200 data sets, the interval holds the value of 1500 patients in about 95 of 100."""
    x, y, _ = pair(np.random.default_rng(1), 1500, images=1)
    truth = similarity.linear_cka(x, y)
    draws = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        x, y, patients = pair(draws, 60, images=1)
        found = intervals.cka_interval(
            similarity.linear_gram(x), similarity.linear_gram(y), intervals.patient_groups(patients)
        )
        held += found.low <= truth <= found.high
    assert 180 <= held <= 199


def test_what_is_undefined_has_a_reason():
    x, y, patients = pair(np.random.default_rng(0), 4)
    few = intervals.cka_interval(similarity.linear_gram(x), similarity.linear_gram(y), patients)
    assert few.reason == "fewer than 5 patients"
    assert np.isfinite(few.value)
    assert np.isnan(few.low)
    x, y, patients = pair(np.random.default_rng(0), 12)
    flat = intervals.cka_interval(similarity.linear_gram(0 * x), similarity.linear_gram(y), patients)
    assert flat.reason == "constant"
    assert np.isnan(flat.value)
