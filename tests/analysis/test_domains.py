"""Distances of domains against their formulas written out."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import rbf_kernel

from radnet_jax.analysis import domains
from radnet_jax.errors import UserError


def sets(shift=0.0, n=30, m=40, d=5):
    draws = np.random.default_rng(0)
    return draws.standard_normal((n, d)), draws.standard_normal((m, d)) * 1.5 + shift


def test_mmd_by_sums_over_pairs():
    x, y = sets(0.5)
    both = np.concatenate([x, y])
    squared = ((both[:, None] - both[None]) ** 2).sum(axis=2)
    nonzero = np.sort(squared[squared > 1e-9])
    gamma = 1 / (2 * nonzero[(len(nonzero) - 1) // 2])
    within = []
    for s in (x, y):
        k = rbf_kernel(s, gamma=gamma)
        within.append(np.mean([k[i, j] for i in range(len(s)) for j in range(len(s)) if i != j]))
    assert domains.mmd(x, y) == pytest.approx(sum(within) - 2 * rbf_kernel(x, y, gamma=gamma).mean(), rel=1e-9)


def test_one_distribution_and_two():
    draws = np.random.default_rng(1)
    same = [domains.mmd(*draws.standard_normal((2, 40, 8))) for _ in range(60)]
    assert np.mean(same) == pytest.approx(0, abs=0.005)
    assert min(same) < 0
    far = draws.standard_normal((40, 8)) + 3
    assert domains.mmd(draws.standard_normal((40, 8)), far) > 0.5


def test_frechet_by_the_root_of_the_product():
    x, y = sets(0.5)
    covariances = [np.cov(s.T) for s in (x, y)]
    squared = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    size = sum(np.trace(c) for c in covariances)
    expected = (squared + size - 2 * np.trace(sqrtm(covariances[0] @ covariances[1]).real)) / (size / 2)
    assert domains.frechet(x, y) == pytest.approx(expected, rel=1e-6)
    assert domains.frechet(7 * x, 7 * y) == pytest.approx(expected, rel=1e-6)
    assert domains.frechet(x, x) == pytest.approx(0, abs=1e-9)
    wide = np.random.default_rng(2).standard_normal((2, 10, 50))  # fewer images than features
    assert np.isfinite(domains.frechet(*wide))


def test_pairs_of_equal_numbers():
    x, y = sets()
    found = domains.distances({"ct": x, "photo": y, "xray": y + 5})
    assert list(found) == ["ct and photo", "ct and xray", "photo and xray"]
    assert found["ct and photo"]["frechet"] == domains.frechet(x, y[np.linspace(0, 39, 30).astype(int)])
    with pytest.raises(UserError, match="fewer images of a domain"):
        domains.mmd(x[:1], y)
