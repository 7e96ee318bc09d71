"""Barlow Twins' loss against loops of the paper's formula, lightly, and one device against many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.losses.barlow import barlow_twins

WEIGHT = 0.0051


def embeddings(n=16, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return (2 * rng.standard_normal((n, 1, d)) + rng.standard_normal((n, 2, d)) + 3).astype(np.float32)


def paper(z, weight):
    """Zbontar et al. 2021, equations 1 and 2, with loops; float64."""
    z = np.float64(z)
    a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (z[:, 0], z[:, 1]))
    total = 0.0
    for i in range(z.shape[2]):
        for j in range(z.shape[2]):
            c = np.sum(a[:, i] * b[:, j]) / len(z)
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


def test_equals_the_papers_formula():
    for weight in (WEIGHT, 1.0):
        z = embeddings()
        loss, metrics = barlow_twins(jnp.asarray(z), weight=weight)
        assert float(loss) == pytest.approx(paper(z, weight), rel=1e-5)
        assert float(metrics["on_diagonal"] + weight * metrics["off_diagonal"]) == pytest.approx(float(loss), rel=1e-5)


def test_embeddings_without_correlation_are_at_chance():
    loss, metrics = barlow_twins(jnp.ones((8, 2, 6)), weight=WEIGHT)  # constant: C is zero
    assert float(loss) == float(metrics["loss_at_chance"]) == 6
    independent = np.random.default_rng(0).standard_normal((20000, 2, 6))
    loss, _ = barlow_twins(jnp.asarray(independent), weight=WEIGHT)
    assert float(loss) == pytest.approx(6, rel=0.02)


def test_equal_views_without_shared_dimensions_have_no_loss():
    x = np.random.default_rng(0).standard_normal((64, 4))
    q, _ = np.linalg.qr(x - x.mean(0))
    loss, _ = barlow_twins(jnp.stack([q, q], axis=1) * 10, weight=WEIGHT)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_the_gradient_is_finite_where_a_dimension_is_constant():
    gradient = jax.grad(lambda z: barlow_twins(z, weight=WEIGHT)[0])(jnp.asarray(embeddings()).at[..., 0].set(1.0))
    assert np.isfinite(gradient).all()


def test_devices_share_the_batch():
    z = jnp.asarray(embeddings())
    run = jax.jit(jax.value_and_grad(functools.partial(barlow_twins, weight=WEIGHT), has_aux=True))
    (loss, _), gradient = run(z)
    (loss_8, _), gradient_8 = run(jax.device_put(z, sharding.batch_sharding(sharding.make_mesh(8))))
    assert float(loss_8) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(gradient_8, gradient, atol=1e-6)


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="two views"):
        barlow_twins(jnp.ones((4, 3, 2)), weight=WEIGHT)


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    criterion = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=WEIGHT)
    z = embeddings(d=12)
    x = torch.tensor(z, requires_grad=True)
    loss = criterion(x[:, 0], x[:, 1])
    loss.backward()
    value, gradient = jax.value_and_grad(lambda z: barlow_twins(z, weight=WEIGHT)[0])(jnp.asarray(z))
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)
