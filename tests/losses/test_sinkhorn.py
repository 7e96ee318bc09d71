"""Sinkhorn-Knopp against the algorithm written out on probabilities, and what holds of any result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.losses import sinkhorn as module

sinkhorn = jax.jit(module.sinkhorn, static_argnames=("epsilon", "iterations"))


def paper(scores, epsilon, iterations):
    """Caron et al. 2020, equations 3 to 5 and listing of appendix A: Q [k b], in float64."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q = q / q.sum(axis=1, keepdims=True) / k
        q = q / q.sum(axis=0, keepdims=True) / b
    return (q * b).T


def cosines(b=24, k=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (b, k)).astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_algorithm_on_probabilities(epsilon, iterations):
    scores = cosines()
    ours = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(ours, paper(scores, epsilon, iterations), rtol=2e-4, atol=1e-6)


def test_rows_sum_to_one_and_prototypes_are_used_alike_in_the_end():
    q = np.asarray(sinkhorn(cosines(), epsilon=0.05, iterations=500))
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(axis=0), 24 / 7, rtol=1e-2)
    few = np.asarray(sinkhorn(cosines(), epsilon=0.05, iterations=1))
    np.testing.assert_allclose(few.sum(axis=1), 1, rtol=1e-5)
    assert few.sum(axis=0).std() > 10 * q.sum(axis=0).std()


def test_equal_scores_are_shared_alike():
    np.testing.assert_allclose(sinkhorn(np.ones((8, 4), np.float32), epsilon=0.05, iterations=3), 0.25, rtol=1e-5)


def test_is_stable_where_exponentials_are_not():
    scores = cosines() * 50  # exp(1000) in the paper's form
    q = np.asarray(sinkhorn(scores, epsilon=0.05, iterations=3))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-4)


def test_absent_rows_have_no_part():
    scores = cosines(b=30)
    valid = np.arange(30) % 3 > 0
    ours = np.asarray(sinkhorn(scores, epsilon=0.05, iterations=3, valid=valid))
    np.testing.assert_allclose(ours[valid], paper(scores[valid], 0.05, 3), rtol=2e-4, atol=1e-6)
    assert not ours[~valid].any()


def test_the_scores_are_those_of_the_global_batch_on_any_devices():
    scores = jnp.asarray(cosines(b=32))
    mesh = sharding.make_mesh(8)
    eight = sinkhorn(jax.device_put(scores, sharding.batch_sharding(mesh)), epsilon=0.05, iterations=3)
    np.testing.assert_allclose(eight, paper(scores, 0.05, 3), rtol=2e-4, atol=1e-6)
