"""InfoNCE against the papers' formulas in NumPy and PyTorch's cross-entropy: values, gradients, chance, metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses import info_nce as losses

info_nce = jax.jit(losses.info_nce, static_argnames="temperature")
in_batch_nce = jax.jit(losses.in_batch_nce, static_argnames="temperature")


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def paper(queries, keys, negatives, temperature):
    """He et al. 2020, equation 1, with loops."""
    q, k, others = unit(queries), unit(keys), unit(negatives)
    total = 0.0
    for i in range(len(q)):
        positive = np.exp(q[i] @ k[i] / temperature)
        total -= np.log(positive / (positive + sum(np.exp(q[i] @ other / temperature) for other in others)))
    return total / len(q)


def paper_v3(queries, keys, temperature):
    """Chen, Xie & He 2021, algorithm 1: 2 t times the cross-entropy of row i's softmax at i."""
    logits = unit(queries) @ unit(keys).T / temperature
    return np.mean([2 * temperature * (np.log(np.exp(row).sum()) - row[i]) for i, row in enumerate(logits)])


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_the_papers_formula(temperature):
    q, k, others = arrays((8, 5), (8, 5), (32, 5))
    k += 2 * q
    loss, metrics = info_nce(q, k, others, temperature=temperature)
    assert loss == pytest.approx(paper(q, k, others, temperature), rel=1e-5)
    nearest = [unit(a) @ unit(b) > max(unit(others) @ unit(a)) for a, b in zip(q, k, strict=True)]
    assert 0 < np.mean(nearest) < 1
    assert metrics["contrastive_accuracy"] == pytest.approx(np.mean(nearest))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_in_the_batch_it_equals_the_papers_formula(temperature):
    q, k = arrays((12, 3), (12, 3), seed=1)
    k += q
    loss, metrics = in_batch_nce(q, k, temperature=temperature)
    assert loss == pytest.approx(paper_v3(q, k, temperature), rel=1e-5)
    hits = np.mean(np.argmax(unit(q) @ unit(k).T, axis=1) == np.arange(12))
    assert 0 < hits < 1
    assert metrics["contrastive_accuracy"] == pytest.approx(hits)


def test_chance_is_the_loss_of_equal_embeddings():
    ones = jnp.ones((16, 4))
    loss, metrics = info_nce(ones, ones, jnp.ones((64, 4)), temperature=0.07)
    assert loss == pytest.approx(np.log(65), rel=1e-5)
    assert metrics["loss_at_chance"] == pytest.approx(np.log(65), rel=1e-6)
    loss, metrics = in_batch_nce(ones, ones, temperature=0.2)
    assert loss == pytest.approx(0.4 * np.log(16), rel=1e-5)
    assert metrics["loss_at_chance"] == pytest.approx(0.4 * np.log(16), rel=1e-6)


def test_bfloat16_embeddings_are_compared_in_float32():
    q, k, others = (jnp.asarray(x, jnp.bfloat16) for x in arrays((8, 4), (8, 4), (16, 4)))
    loss, _ = info_nce(q, k, others, temperature=0.07)
    assert loss == pytest.approx(paper(*(x.astype(jnp.float32) for x in (q, k, others)), 0.07), rel=1e-5)


def test_gradients_are_finite_where_softmax_overflows():
    q, k, others = arrays((4, 6), (4, 6), (8, 6))
    for x in (1e4 * q, 1e-4 * q):
        gradient = jax.grad(lambda q: info_nce(q, k, others, temperature=0.001)[0])(jnp.asarray(x))
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_values_and_gradients_are_torchs():
    torch = pytest.importorskip("torch")
    q, k, others = arrays((8, 5), (8, 5), (32, 5), seed=2)
    normalise = torch.nn.functional.normalize
    tq, tk, to = (torch.tensor(x, requires_grad=True) for x in (q, k, others))
    own = (normalise(tq) * normalise(tk)).sum(1, keepdim=True)
    logits = torch.cat([own, normalise(tq) @ normalise(to).T], dim=1) / 0.07
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    expected.backward()
    value, gradient = jax.value_and_grad(lambda q: info_nce(q, k, others, temperature=0.07)[0])(jnp.asarray(q))
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, tq.grad.numpy(), rtol=1e-4, atol=1e-6)
    tq.grad = None
    expected = 2 * 0.2 * torch.nn.functional.cross_entropy(normalise(tq) @ normalise(tk).T / 0.2, torch.arange(8))
    expected.backward()
    value, gradient = jax.value_and_grad(lambda q: in_batch_nce(q, k, temperature=0.2)[0])(jnp.asarray(q))
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, tq.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_equals_lightlys_with_its_queue():
    torch = pytest.importorskip("torch")
    lightly = pytest.importorskip("lightly.loss")
    q, k, others = arrays((8, 5), (8, 5), (32, 5), seed=3)
    theirs = lightly.NTXentLoss(temperature=0.1, memory_bank_size=(32, 5))
    bank = torch.tensor(unit(others).astype(np.float32))
    theirs.memory_bank.bank = bank if bank.shape == theirs.memory_bank.bank.shape else bank.T
    tq = torch.tensor(q, requires_grad=True)
    expected = theirs(tq, torch.tensor(k))
    expected.backward()
    value, gradient = jax.value_and_grad(lambda q: info_nce(q, k, others, temperature=0.1)[0])(jnp.asarray(q))
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, tq.grad.numpy(), rtol=1e-4, atol=1e-6)
