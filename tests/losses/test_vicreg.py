"""VICReg's loss against loops of the paper's formula, lightly, and one device against many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.losses.vicreg import vicreg


def embeddings(n=16, d=5, seed=0):
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.2, 1.5, d)  # some dimensions below gamma, some above
    return (scale * (rng.standard_normal((n, 1, d)) + 0.3 * rng.standard_normal((n, 2, d))) + 2).astype(np.float32)


def paper(z, invariance=25.0, variance=25.0, covariance=1.0, gamma=1.0):
    """Bardes et al. 2022, equations 1 to 6 in the scales of the authors' code, with loops; float64."""
    z = np.float64(z)
    n, _, d = z.shape
    s = sum(np.sum((z[i, 0] - z[i, 1]) ** 2) for i in range(n)) / (n * d)
    v = c = 0.0
    for x in (z[:, 0], z[:, 1]):
        matrix = np.cov(x.T)
        v += sum(max(0.0, gamma - np.sqrt(matrix[j, j] + 1e-4)) for j in range(d)) / d / 2
        c += sum(matrix[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return invariance * s + variance * v + covariance * c


@pytest.mark.parametrize("weights", [{}, dict(invariance=1.0, variance=2.0, covariance=3.0, gamma=0.7)])
def test_equals_the_papers_formula(weights):
    z = embeddings()
    loss, metrics = vicreg(jnp.asarray(z), **weights)
    assert float(loss) == pytest.approx(paper(z, **weights), rel=1e-5)
    zero = dict(invariance=0.0, variance=0.0, covariance=0.0)
    for name in zero:
        only = paper(z, **{**zero, name: 1.0, "gamma": weights.get("gamma", 1.0)})
        assert float(metrics[f"{name}_term"]) == pytest.approx(only, rel=1e-5)


def test_one_point_pays_for_its_variance_only():
    loss, _ = vicreg(jnp.ones((8, 2, 6)))
    assert float(loss) == pytest.approx(25 * (1 - 0.01), rel=1e-6)


def test_the_gradient_is_finite_where_embeddings_have_collapsed():
    gradient = jax.grad(lambda z: vicreg(z)[0])(jnp.ones((8, 2, 6)))
    assert np.isfinite(gradient).all()


def test_devices_share_the_batch():
    z = jnp.asarray(embeddings())
    run = jax.jit(jax.value_and_grad(vicreg, has_aux=True))
    (loss, _), gradient = run(z)
    (loss_8, _), gradient_8 = run(jax.device_put(z, sharding.batch_sharding(sharding.make_mesh(8))))
    assert float(loss_8) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(gradient_8, gradient, atol=1e-6)


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="two views"):
        vicreg(jnp.ones((4, 3, 2)))


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    criterion = pytest.importorskip("lightly.loss").VICRegLoss()
    z = embeddings(d=12)
    x = torch.tensor(z, requires_grad=True)
    loss = criterion(x[:, 0], x[:, 1])
    loss.backward()
    value, gradient = jax.value_and_grad(lambda z: vicreg(z)[0])(jnp.asarray(z))
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)
