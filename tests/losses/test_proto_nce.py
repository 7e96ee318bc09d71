"""ProtoNCE and its concentrations against the paper's equations with loops, and how negatives are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses import proto_nce as module

loss_fn = jax.jit(module.proto_nce)


def equation_11(q, prototypes, phi, assignments, negatives):
    """For one clustering, with the prototypes of all images of the batch among the terms; float64."""
    q, c, phi = (np.asarray(x, np.float64) for x in (q, prototypes, phi))
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    own = [s for s in assignments if s >= 0]
    terms = []
    for i, s in enumerate(assignments):
        if s >= 0:
            logits = np.array([q[i] @ c[j] / phi[j] for j in [*own, *negatives]])
            terms.append(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - q[i] @ c[s] / phi[s])
    return np.mean(terms) if terms else 0.0


def equation_12(distances, assignments, k, temperature):
    """With the authors' treatment of small clusters, percentiles and mean."""
    phi = np.zeros(k)
    for j in range(k):
        own = np.asarray(distances, np.float64)[assignments == j]
        if len(own) > 1:
            phi[j] = own.mean() / np.log(len(own) + 10)
    for j in range(k):
        if (assignments == j).sum() <= 1:
            phi[j] = phi.max()
    phi = np.clip(phi, np.percentile(phi, 10), np.percentile(phi, 90))
    return temperature * phi / phi.mean()


def numbers(b=8, d=5, k=20, seed=0):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((k, d))
    q = rng.standard_normal((b, d)).astype(np.float32)
    phi = rng.uniform(0.1, 0.4, k).astype(np.float32)
    own = rng.integers(0, k, b).astype(np.int32)
    own[[2, 5]] = -1
    own[1] = own[0]
    return q, (c / np.linalg.norm(c, axis=-1, keepdims=True)).astype(np.float32), phi, own


def test_equals_equation_11():
    q, c, phi, own = numbers()
    negatives, counted = module.draw_negatives(jax.random.key(0), jnp.asarray(own), 20, 7)
    assert counted.all()
    loss, metrics = loss_fn(q, c, phi, own, negatives, counted)
    assert loss == pytest.approx(equation_11(q, c, phi, own, np.asarray(negatives)), rel=1e-5)
    assert metrics["loss_at_chance"] == pytest.approx(np.log(6 + 7), rel=1e-6)
    assert 0 <= metrics["prototype_accuracy"] <= 1


def test_is_at_chance_where_embeddings_say_nothing():
    _, c, phi, own = numbers()
    q = np.tile(np.linalg.svd(np.vstack([c, np.zeros(5)]))[2][-1], (8, 1))
    c = c - (c @ q[0])[:, None] * q[0]  # every product is 0
    negatives, counted = module.draw_negatives(jax.random.key(0), jnp.asarray(own), 20, 7)
    loss, metrics = loss_fn(q.astype(np.float32), c, phi, own, negatives, counted)
    assert loss == pytest.approx(float(metrics["loss_at_chance"]), abs=1e-5)


def test_negatives_are_other_clusters_drawn_alike():
    own = jnp.asarray([3, 3, 7, -1], jnp.int32)
    draws = [module.draw_negatives(jax.random.key(i), own, 10, 5) for i in range(200)]
    seen = np.concatenate([np.asarray(ids) for ids, _ in draws])
    assert all(counted.all() and len(set(np.asarray(ids))) == 5 for ids, counted in draws)
    counts = np.bincount(seen, minlength=10)
    assert counts[[3, 7]].sum() == 0
    np.testing.assert_allclose(np.delete(counts, [3, 7]), 200 * 5 / 8, atol=35)


def test_where_too_few_clusters_are_left_the_rest_is_not_counted():
    own = jnp.asarray([0, 1, 2, 3], jnp.int32)
    ids, counted = module.draw_negatives(jax.random.key(0), own, 6, 100)
    assert len(ids) == 6
    assert set(np.asarray(ids)[np.asarray(counted)]) == {4, 5}
    q, c, phi, _ = numbers(k=6)
    q = q[:4]
    loss, _ = loss_fn(q, c, phi, own, ids, counted)
    assert loss == pytest.approx(equation_11(q, c, phi, np.asarray(own), [4, 5]), rel=1e-5)


def test_no_clusters_are_no_loss_and_no_gradient():
    q, c, phi, own = numbers()
    ids, counted = module.draw_negatives(jax.random.key(0), jnp.asarray(own), 20, 7)
    none = np.full_like(own, -1)
    loss, metrics = loss_fn(q, c, phi, none, ids, counted)
    assert loss == 0
    assert metrics["loss_at_chance"] == 0
    assert not np.asarray(jax.grad(lambda q: loss_fn(q, c, phi, none, ids, counted)[0])(jnp.asarray(q))).any()
    some = np.asarray(jax.grad(lambda q: loss_fn(q, c, phi, own, ids, counted)[0])(jnp.asarray(q)))
    assert not some[2].any()
    assert np.isfinite(some).all()
    assert some[0].any()


def test_concentration_equals_equation_12():
    rng = np.random.default_rng(0)
    k = 12
    assignments = rng.integers(0, k - 2, 400).astype(np.int32)  # one cluster is empty
    assignments[:20] = -1
    assignments[20] = k - 2  # and one has a single row
    apart = (rng.uniform(0.1, 1.0, k)[assignments] * rng.uniform(0.5, 1.5, 400)).astype(np.float32)
    ours = np.asarray(module.concentration(jnp.asarray(apart), jnp.asarray(assignments), k, temperature=0.2))
    np.testing.assert_allclose(ours, equation_12(apart, assignments, k, 0.2), rtol=1e-5)
    assert ours.mean() == pytest.approx(0.2, rel=1e-5)
    assert ours[k - 1] == ours[k - 2] == ours.max()


def test_equal_embeddings_have_the_plain_temperature():
    phi = module.concentration(jnp.zeros(30), jnp.arange(30) % 5, 5, temperature=0.2)
    np.testing.assert_allclose(phi, 0.2, rtol=1e-6)
