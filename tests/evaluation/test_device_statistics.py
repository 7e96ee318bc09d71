"""The accelerator's AUROC against the host's: equal to the last bit."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from radnet_jax.evaluation.statistics import device
from radnet_jax.evaluation.statistics.bootstrap import resample_counts
from radnet_jax.evaluation.statistics.device import auroc_values
from radnet_jax.evaluation.statistics.weighted import weighted_metric


def _host(scores, labels, mask, group, n_groups, counts):
    columns = [np.s_[:, j : j + 1] for j in range(scores.shape[1])]
    kernels = [weighted_metric("auroc", scores[c], labels[c], mask[c], group, n_groups) for c in columns]
    return np.stack([kernel(counts) for kernel in kernels], axis=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 10**6]))
def test_device_equals_host(seed, levels):
    rng = np.random.default_rng(seed)
    n, k, n_groups = 24, 3, 9  # one shape: compiled once
    scores, labels = rng.integers(0, levels, (n, k)) / levels, rng.random((n, k)) < 0.3
    mask, group = rng.random((n, k)) < 0.8, rng.integers(0, n_groups, n)
    counts = np.concatenate(list(resample_counts(n_groups, 16, seed)))
    got = auroc_values(scores, labels, [counts, counts], label_mask=mask, group=group)
    expected = _host(scores, labels, mask, group, n_groups, counts)
    np.testing.assert_array_equal(got, np.concatenate([expected, expected]))


def test_sums_beyond_32_bits_are_exact():
    rng = np.random.default_rng(0)
    n = 100_000  # twice U is up to 5e9
    labels = (np.arange(n) % 2)[:, None]
    scores, group = rng.normal(labels).round(3), np.arange(n)
    counts = next(resample_counts(n, 2, 0))
    got = auroc_values(scores, labels, [counts], group=group)
    np.testing.assert_array_equal(got, _host(scores, labels, np.ones_like(labels), group, n, counts))


def test_what_can_not_be_counted_is_refused_or_undefined(monkeypatch):
    labels, group = np.eye(2)[[0, 1, 0, 1]], np.arange(4)
    scores = np.array([[0.1, 0.2], [np.nan, 0.3], [0.3, 0.1], [0.2, 0.9]])
    counts = np.ones((1, 4), int)
    got = auroc_values(scores, labels, [counts], group=group)
    assert np.isnan(got[0, 0])
    assert got[0, 1] == 1
    monkeypatch.setattr(device, "_MAX_CASES", 3)
    with pytest.raises(ValueError, match="more than 3 cases"):
        auroc_values(scores, labels, [counts], group=group)


def test_importing_it_imports_no_jax():
    code = "import sys, radnet_jax.evaluation.statistics.device; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
