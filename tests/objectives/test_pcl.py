"""PCL: InfoNCE alone at first, the target's embeddings in the bank, clusters and temperatures, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import networks
from tests.losses.test_proto_nce import equation_12
from tests.objectives import references, small

N, B = 20, 8
NUMBERS = dict(
    num_examples=N,
    steps_per_epoch=2,
    queue=2 * B,
    clusters=(4, 6),
    negatives=3,
    iterations=5,
    restarts=2,
    projector_hidden=16,
)


def make(**changes):
    return small.make("pcl", **NUMBERS | dict(projector_dim=8, warmup_steps=3) | changes)


def batch(seed=0):
    return {"views": small.views(seed, n=B), "index": jnp.arange(B) * 2}


def clustered(objective, state):
    """The state after a pass over N images, shown in batches of which the last is not full."""
    images = jax.random.normal(jax.random.key(9), (24, 16, 16, 3))
    (phase,) = objective.phases
    for first in range(0, 24, B):
        rows = np.arange(first, first + B)
        shown = {"image": images[first : first + B], "index": jnp.where(rows < N, rows, -1)}
        state = state.replace(objective_state=jax.jit(objective.observe, static_argnums=2)(state, shown, phase))
    remembered, metrics = jax.jit(objective.finish, static_argnums=1)(state, phase, jax.random.key(5))
    return state.replace(objective_state=remembered), metrics, images[:N]


@pytest.fixture(scope="module")
def case():
    objective = make()
    state = small.state_of(objective, batch())
    state, _ = small.stepper(objective)(state, batch())
    return objective, state, *clustered(objective, state)


def test_until_the_first_clusters_the_loss_is_info_nce(case):
    objective, state, *_ = case
    loss, aux = objective.loss(state.params, state, batch(1), jax.random.key(0))
    np.testing.assert_allclose(loss, references.loss("moco", objective, state, batch(1), None), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["loss_at_chance"], np.log(1 + 2 * B), rtol=1e-6)


def test_then_it_is_the_sum_with_proto_nce(case):
    objective, _, state, *_ = case
    key = jax.random.key(3)
    loss, _ = objective.loss(state.params, state, batch(1), key)
    np.testing.assert_allclose(loss, references.loss("pcl", objective, state, batch(1), key), rtol=1e-4)
    assert loss > references.loss("moco", objective, state, batch(1), None) + 0.1


def test_the_bank_has_the_targets_embeddings_in_eval_mode(case):
    objective, before, state, _, images = case
    target = before.objective_state["target"]
    out, _ = networks.apply(objective.modules, target["params"], target["batch_stats"], images, train=False)
    rows = np.asarray(state.objective_state["bank"]["embeddings"])
    np.testing.assert_allclose(rows[:N], networks.unit(out["projector"]), atol=1e-4)
    assert not rows[N:].any()


def test_prototypes_are_centroids_of_length_one_with_the_concentration_of_their_rows(case):
    objective, _, state, metrics, _ = case
    remembered = state.objective_state
    x = np.asarray(remembered["bank"]["embeddings"])[:N]
    assignments = np.asarray(remembered["bank"]["assignments"])
    assert (assignments[N:] == -1).all()
    assert 0 < metrics["clusters_used"] <= 1
    for m, k in enumerate(objective.clusters):
        own, prototypes = assignments[:N, m], np.asarray(remembered["prototypes"][str(m)])
        means = np.stack([x[own == j].mean(0) if (own == j).any() else np.full(8, np.nan) for j in range(k)])
        there = np.isfinite(means[:, 0])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(prototypes[there], unit[there], atol=1e-2)  # the last assignment may move some
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-5)
        apart = np.linalg.norm(x - means[own], axis=1)
        phi = np.asarray(remembered["concentration"][str(m)])
        np.testing.assert_allclose(phi, equation_12(apart, own, k, 0.2), rtol=2e-2)


def test_a_bank_of_half_the_bytes_is_clustered_too(case):
    objective, state = make(bank_dtype="bfloat16"), case[1]
    embeddings = objective.init(jax.random.key(0), batch())[2]["bank"]["embeddings"]
    assert embeddings.nbytes == 1024 * 8 * 2
    remembered = state.objective_state
    state = state.replace(objective_state=remembered | {"bank": remembered["bank"] | {"embeddings": embeddings}})
    after, metrics, _ = clustered(objective, state)
    found, wanted = (np.asarray(s.objective_state["bank"]["assignments"]) for s in (after, case[2]))
    assert (found >= 0).sum() == (wanted >= 0).sum() == 2 * N
    assert np.mean(found[:N] == wanted[:N]) > 0.9  # equal seeds; a row between two clusters may change sides
    assert metrics["clusters_used"] > 0.5


def test_clusters_are_found_before_each_epoch_after_the_warm_up():
    (phase,) = make().phases
    assert (phase.every, phase.first, phase.reads) == (2, 3, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(queue=12), "queue is filled by whole batches"),
        (dict(clusters=(4, 21)), "pcl: clusters; got 21; expected 2 to 20"),
        (dict(clusters=()), "pcl: clusters"),
        (dict(num_examples=7), "fewer rows than a batch"),
        (dict(temperature=0.0), "temperature"),
        (dict(momentum=1.0), "momentum"),
        (dict(negatives=0), "negatives"),
        (dict(restarts=0), "restarts"),
        (dict(bank_dtype="int8"), "bank_dtype; got 'int8'; expected float32 or bfloat16"),
        (dict(warmup_steps=-1), "warmup_steps"),
        (dict(warmup_steps=10), "ends before its first clustering, as MoCo; got objective.warmup_steps=10, total_st"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
