"""The swapped cosine against loops of the papers' formulas, and lightly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.cosine import swapped_cosine


def embeddings(seed, n=7, d=5):
    return np.random.default_rng(seed).standard_normal((n, 2, d)).astype(np.float32)


def equation_2(p, z):
    """Grill et al. 2020: squared distance of unit vectors, summed over the two orders, mean over examples."""
    p, z = np.float64(p), np.float64(z)
    total = 0.0
    for i in range(len(p)):
        for v in (0, 1):
            a, b = p[i, v] / np.linalg.norm(p[i, v]), z[i, 1 - v] / np.linalg.norm(z[i, 1 - v])
            total += np.sum((a - b) ** 2)
    return total / len(p)


def test_equals_byols_formula():
    p, z = embeddings(0), embeddings(1)
    assert 4 - 4 * float(swapped_cosine(p, z)) == pytest.approx(equation_2(p, z), rel=1e-5)


def test_the_order_of_views_is_swapped():
    x = embeddings(2)
    assert float(swapped_cosine(x, x[:, ::-1])) == pytest.approx(1, abs=1e-6)
    assert float(swapped_cosine(x, x)) < 0.9


def test_no_gradient_reaches_the_targets_and_it_is_finite_at_zero():
    p, z = map(jnp.asarray, (embeddings(0), embeddings(1)))
    of_p, of_z = jax.grad(swapped_cosine, argnums=(0, 1))(p, z)
    assert np.abs(of_p).max() > 0
    assert not np.any(of_z)
    assert np.isfinite(jax.grad(swapped_cosine)(jnp.zeros_like(p), z)).all()


def test_bfloat16_is_compared_in_float32():
    p, z = (jnp.asarray(embeddings(s), jnp.bfloat16) for s in (0, 1))
    cosine = swapped_cosine(p, z)
    assert cosine.dtype == jnp.float32
    assert 4 - 4 * float(cosine) == pytest.approx(equation_2(np.float32(p), np.float32(z)), rel=1e-5)


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="two views"):
        swapped_cosine(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4)))


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    criterion = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    p, z = embeddings(0), embeddings(1)
    a, b = torch.tensor(p, requires_grad=True), torch.tensor(z)
    loss = (criterion(a[:, 0], b[:, 1]) + criterion(a[:, 1], b[:, 0])) / 2
    loss.backward()
    value, gradient = jax.value_and_grad(swapped_cosine)(jnp.asarray(p), jnp.asarray(z))
    assert -float(value) == pytest.approx(float(loss), abs=1e-6)
    np.testing.assert_allclose(-gradient, a.grad.numpy(), rtol=1e-5, atol=1e-7)
