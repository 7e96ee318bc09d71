"""SwAV's loss against the paper's equations with loops, and against lightly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.swav import swapped_prediction
from tests.losses.test_sinkhorn import paper as sinkhorn

loss_fn = jax.jit(swapped_prediction, static_argnames=("temperature", "epsilon", "iterations"))
NUMBERS = dict(temperature=0.1, epsilon=0.05, iterations=3)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def paper(z, prototypes, *, temperature, epsilon, iterations, queue=None):
    """Equation 2 with equation 9's views; float64."""
    z, c = unit(z), np.asarray(prototypes, np.float64)
    b, views, _ = z.shape
    total = 0.0
    for s in range(2):
        rows = z[:, s] if queue is None else np.concatenate([z[:, s], np.asarray(queue[s], np.float64)])
        q = sinkhorn(rows @ c.T, epsilon, iterations)[:b]
        others = [t for t in range(views) if t != s]
        for t in others:
            for n in range(b):
                logits = z[n, t] @ c.T / temperature
                log_p = logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()
                total += -np.sum(q[n] * log_p) / b / len(others) / 2
    return total


def numbers(b=12, v=5, d=6, k=9, seed=0):
    rng = np.random.default_rng(seed)
    z = 2 * rng.standard_normal((b, 1, d)) + rng.standard_normal((b, v, d))
    return z.astype(np.float32), unit(rng.standard_normal((k, d))).astype(np.float32)


@pytest.mark.parametrize("views", [2, 5])
def test_equals_the_papers_equations(views):
    z, c = numbers(v=views)
    loss, _ = loss_fn(z, c, **NUMBERS)
    assert loss == pytest.approx(paper(z, c, **NUMBERS), rel=1e-5)


def test_the_queue_is_assigned_along_once_it_is_valid():
    z, c = numbers()
    queue = unit(np.random.default_rng(5).standard_normal((2, 24, 6))).astype(np.float32)
    without, _ = loss_fn(z, c, **NUMBERS)
    early, _ = loss_fn(z, c, queue=queue, queue_valid=False, **NUMBERS)
    later, _ = loss_fn(z, c, queue=queue, queue_valid=True, **NUMBERS)
    assert early == pytest.approx(float(without), rel=1e-6)
    assert later == pytest.approx(paper(z, c, queue=queue, **NUMBERS), rel=1e-5)
    assert abs(later - without) > 1e-3


def test_is_at_chance_where_all_prototypes_are_equal():
    z, _ = numbers()
    loss, metrics = loss_fn(z, np.tile(np.eye(6, dtype=np.float32)[0], (9, 1)), **NUMBERS)
    assert loss == pytest.approx(np.log(9), rel=1e-6)
    assert metrics["loss_at_chance"] == pytest.approx(np.log(9), rel=1e-6)
    assert metrics["assignment_entropy"] == pytest.approx(np.log(9), rel=1e-5)


def test_gradient_is_of_the_predictions_only():
    z, c = numbers(b=4, v=3, d=3, k=4)
    gradient = jax.grad(lambda z: loss_fn(z, c, **NUMBERS)[0])(jnp.asarray(z))

    def with_fixed_assignments(moved):
        total = 0.0
        for s in range(2):
            q = sinkhorn(unit(z[:, s]) @ c.T.astype(np.float64), 0.05, 3)
            for t in {0, 1, 2} - {s}:
                logits = unit(moved[:, t]) @ c.T / 0.1
                total -= np.sum(q * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))) / 4 / 2 / 2
        return total

    numeric, step = np.zeros(z.shape), 1e-5
    for index in np.ndindex(z.shape):
        up, down = z.astype(np.float64), z.astype(np.float64)
        up[index] += step
        down[index] -= step
        numeric[index] = (with_fixed_assignments(up) - with_fixed_assignments(down)) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=2e-5)


def test_metrics_tell_a_collapse():
    z, c = numbers(b=64, k=8)
    _, spread = loss_fn(z, c, **NUMBERS)
    same = np.concatenate([c[:1], np.tile(-c[:1], (7, 1))])
    _, one = loss_fn(np.broadcast_to(c[0], (64, 2, 6)), same, temperature=0.1, epsilon=1e3, iterations=1)
    assert 0.5 < spread["prototypes_used"] <= 1
    assert 0 < spread["assignment_entropy"] < one["assignment_entropy"]


def test_bfloat16_embeddings_are_compared_in_float32():
    z, c = numbers()
    low = jnp.asarray(z, jnp.bfloat16)
    loss, _ = loss_fn(low, c, **NUMBERS)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(paper(np.asarray(low, np.float64), c, **NUMBERS), rel=1e-5)


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    lightly = pytest.importorskip("lightly.loss")
    z, c = numbers(b=16, v=6)
    theirs = lightly.SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    leaf = torch.tensor(z, requires_grad=True)
    scores = torch.nn.functional.normalize(leaf, dim=-1) @ torch.tensor(c).T
    loss = theirs([scores[:, 0], scores[:, 1]], [scores[:, t] for t in range(2, 6)])
    loss.backward()
    ours, gradient = jax.value_and_grad(lambda z: loss_fn(z, c, **NUMBERS)[0])(jnp.asarray(z))
    assert ours == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-5)
