"""NT-Xent against the paper's formula in NumPy: chance level, gradient, the global batch on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.losses import ntxent

nt_xent = jax.jit(ntxent.nt_xent, static_argnames=("temperature", "groups", "block"))


def paper(views, temperature):
    """Algorithm 1 of Chen et al. 2020, with its loops; float64."""
    n = len(views)
    z = views.astype(np.float64).reshape(2 * n, -1)  # 2k and 2k + 1 are a pair
    s = np.array([[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in z] for a in z])

    def loss(i, j):
        others = [np.exp(s[i, k] / temperature) for k in range(2 * n) if k != i]
        return -np.log(np.exp(s[i, j] / temperature) / np.sum(others))

    return np.mean([loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n)]) / 2


def embeddings(n=8, d=5, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 1, d))
    return (3 * shared + rng.standard_normal((n, 2, d))).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_equals_the_papers_formula(temperature):
    z = embeddings()
    loss, _ = nt_xent(jnp.asarray(z), temperature=temperature)
    assert loss == pytest.approx(paper(z, temperature), abs=1e-5)


def test_starts_at_chance_where_all_embeddings_are_equal():
    loss, metrics = nt_xent(jnp.ones((16, 2, 4)), temperature=0.1)
    assert loss == pytest.approx(np.log(2 * 16 - 1), abs=1e-5)
    assert loss == pytest.approx(float(metrics["loss_at_chance"]), abs=1e-5)
    _, metrics = nt_xent(jnp.ones((16, 2, 4)), temperature=0.1, groups=4)
    assert metrics["loss_at_chance"] == pytest.approx(np.log(2 * 4 - 1), abs=1e-5)


def test_gradient_equals_finite_differences_of_the_formula():
    z = embeddings(n=4, d=3)
    gradient = jax.jit(jax.grad(lambda z: nt_xent(z, temperature=0.5)[0]))(jnp.asarray(z))
    numeric, step = np.zeros(z.shape), 1e-5
    for index in np.ndindex(z.shape):
        up, down = z.astype(np.float64), z.astype(np.float64)
        up[index] += step
        down[index] -= step
        numeric[index] = (paper(up, 0.5) - paper(down, 0.5)) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    criterion = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2)
    z = embeddings()
    x = torch.tensor(z, requires_grad=True)
    loss = criterion(x[:, 0], x[:, 1])
    loss.backward()
    value, gradient = jax.value_and_grad(lambda z: nt_xent(z, temperature=0.2)[0])(jnp.asarray(z))
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-5)


def test_one_pair_alone_has_loss_and_gradient_zero():
    value_and_grad = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=0.1)[0]))
    loss, gradient = value_and_grad(jnp.asarray(embeddings(n=1)))
    assert loss == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_metrics_are_those_of_the_similarities():
    z = embeddings(n=12, d=3, seed=1)
    _, metrics = nt_xent(z, temperature=0.3)
    unit = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(24, 3)
    s = unit @ unit.T - 10 * np.eye(24)
    hits = s.argmax(1) == np.arange(24) ^ 1
    assert 0 < hits.mean() < 1
    assert metrics["contrastive_accuracy"] == pytest.approx(hits.mean())


def test_bfloat16_embeddings_are_compared_in_float32():
    z = jnp.asarray(embeddings(), jnp.bfloat16)
    loss, _ = nt_xent(z, temperature=0.1)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(paper(np.asarray(z, np.float64), 0.1), abs=1e-4)


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_share_the_negatives(devices):
    z = jnp.asarray(embeddings(n=16))
    run = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=0.2), has_aux=True))
    (loss, metrics), gradient = run(z)
    mesh = sharding.make_mesh(devices)
    (loss_n, metrics_n), gradient_n = run(jax.device_put(z, sharding.batch_sharding(mesh)))
    assert loss_n == pytest.approx(float(loss), abs=1e-6)
    assert metrics_n["contrastive_accuracy"] == metrics["contrastive_accuracy"]
    np.testing.assert_allclose(gradient_n, gradient, atol=1e-6)
    assert gradient_n.sharding.spec == sharding.batch_sharding(mesh).spec


@pytest.mark.parametrize("block", [1, 5, 16, 1000])
def test_blocks_change_nothing(block):
    z = jnp.asarray(embeddings(n=16))
    run = jax.jit(
        jax.value_and_grad(lambda z, block: nt_xent(z, temperature=0.2, block=block), has_aux=True), static_argnums=1
    )
    (loss, metrics), gradient = run(z, block)
    (whole, whole_metrics), whole_gradient = run(z, 16)
    assert loss == pytest.approx(paper(np.asarray(z), 0.2), abs=1e-5)
    assert loss == pytest.approx(float(whole), abs=1e-6)
    assert metrics == whole_metrics
    np.testing.assert_allclose(gradient, whole_gradient, atol=1e-6)


def test_groups_are_contrasted_each_within_itself():
    z = embeddings(n=12)
    loss, metrics = nt_xent(jnp.asarray(z), temperature=0.2, groups=3)
    assert loss == pytest.approx(np.mean([paper(z[i : i + 4], 0.2) for i in (0, 4, 8)]), abs=1e-5)
    apart = [nt_xent(jnp.asarray(z[i : i + 4]), temperature=0.2)[1]["contrastive_accuracy"] for i in (0, 4, 8)]
    assert metrics["contrastive_accuracy"] == pytest.approx(np.mean(apart))


def test_memory_of_a_device_grows_with_its_share_of_the_batch():
    mesh = sharding.make_mesh(8)

    def temporary_bytes(n):
        z = jax.ShapeDtypeStruct((n, 2, 32), jnp.float32, sharding=sharding.batch_sharding(mesh))
        step = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, temperature=0.1, block=64)[0]))
        return step.lower(z).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8192) < 4.5 * temporary_bytes(2048)  # 16 times, were all similarities kept


def test_other_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="two views"):
        nt_xent(jnp.ones((4, 3, 2)), temperature=0.1)
