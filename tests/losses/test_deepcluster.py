"""DeepCluster v2's loss against its formula with loops and against torch's cross-entropy with ignored rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.deepcluster import cluster_cross_entropy

loss_fn = jax.jit(cluster_cross_entropy, static_argnames="temperature")


def formula(z, prototypes, assignments, temperature):
    """Mean over heads of the mean over the views of assigned images; float64."""
    z, c = np.asarray(z, np.float64), np.asarray(prototypes, np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    heads = []
    for h in range(len(c)):
        terms = []
        for n in range(len(z)):
            for t in range(z.shape[1]):
                if assignments[n, h] >= 0:
                    logits = c[h] @ z[n, t] / temperature
                    terms.append(np.log(np.exp(logits).sum()) - logits[assignments[n, h]])
        heads.append(np.mean(terms) if terms else 0.0)
    return np.mean(heads)


def numbers(b=10, v=4, d=6, h=3, k=7, seed=0):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((h, k, d))
    z = rng.standard_normal((b, v, d)).astype(np.float32)
    assignments = rng.integers(-1, k, (b, h)).astype(np.int32)
    return z, (c / np.linalg.norm(c, axis=-1, keepdims=True)).astype(np.float32), assignments


def test_equals_the_formula_where_some_images_have_no_cluster():
    z, c, own = numbers()
    assert (own < 0).any()
    loss, metrics = loss_fn(z, c, own, temperature=0.1)
    assert loss == pytest.approx(formula(z, c, own, 0.1), rel=1e-5)
    assert metrics["assigned"] == pytest.approx((own >= 0).mean())
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    nearest = np.einsum("bvd,hkd->bvhk", unit, c).argmax(-1)
    hits = [(nearest[own[:, h] >= 0, :, h] == own[own[:, h] >= 0, h, None]).mean() for h in range(3)]
    assert metrics["cluster_accuracy"] == pytest.approx(np.mean(hits))


def test_is_at_chance_where_all_prototypes_are_equal():
    z, c, own = numbers()
    loss, metrics = loss_fn(z, np.broadcast_to(c[:, :1], c.shape), own, temperature=0.1)
    assert loss == pytest.approx(np.log(7), rel=1e-5)
    assert metrics["loss_at_chance"] == pytest.approx(np.log(7), rel=1e-6)


def test_images_without_a_cluster_get_no_gradient_and_none_at_all_is_no_nan():
    z, c, own = numbers()
    own[3] = -1
    gradient = jax.grad(lambda z, own: loss_fn(z, c, own, temperature=0.1)[0])
    g = np.asarray(gradient(jnp.asarray(z), own))
    assert not g[3].any()
    assert g[0].any()
    assert loss_fn(z, c, np.full_like(own, -1), temperature=0.1)[0] == 0
    assert not np.asarray(gradient(jnp.asarray(z), np.full_like(own, -1))).any()


def test_prototypes_get_no_gradient():
    z, c, own = numbers()
    assert not np.asarray(jax.grad(lambda c: loss_fn(z, c, own, temperature=0.1)[0])(jnp.asarray(c))).any()


def test_equals_torch_with_an_ignored_index():
    torch = pytest.importorskip("torch")
    z, c, own = numbers()
    leaf = torch.tensor(z, requires_grad=True)
    unit, ids = torch.nn.functional.normalize(leaf, dim=-1), torch.tensor(own).long()
    losses = [
        torch.nn.functional.cross_entropy(
            (unit @ torch.tensor(c[h]).T).reshape(-1, 7) / 0.1, ids[:, h].repeat_interleave(4), ignore_index=-1
        )
        for h in range(3)
    ]
    loss = sum(losses) / 3
    loss.backward()
    ours, gradient = jax.value_and_grad(lambda z: loss_fn(z, c, own, temperature=0.1)[0])(jnp.asarray(z))
    assert ours == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-6)
