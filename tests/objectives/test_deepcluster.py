"""DeepCluster v2 and SeLa v2: the banks' rows, clusters of the epoch before, phases, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import clustering, sharding, train
from radnet_jax.data.pipeline import steps_per_epoch
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES, multicrop, networks
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.phases import Phases
from radnet_jax.step import MADE, compiled_prepare, compiled_step
from tests import every_objective
from tests.objectives import small

B = 32


@pytest.fixture(scope="module", params=["deepcluster_v2", "sela_v2"])
def epoch(request, ct_dataset):
    """Objective, states before each step of an epoch and of the first of the next, and the batches."""
    config = every_objective.config(request.param, ct_dataset, batch_size=B, eval_batch_size=B)
    parts = assemble(config, sharding.make_mesh(1))
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    phases, step = Phases(config, parts, objective), compiled_step(objective, tx, parts.mesh)
    prepare = compiled_prepare(objective.requires, parts.adapter, recipe, parts.mesh)
    count = steps_per_epoch(len(parts.split), B)
    stream = train.train_batches(parts.split, seed=0, batch_size=B)
    states, batches = [], []
    for number in range(count + 1):
        state, metrics = phases.run(state, number)
        raw = next(stream)
        raw = sharding.put_batch({k: raw[k] for k in {"image"} | (objective.requires - MADE)}, parts.mesh)
        batches.append(prepare(raw, 0, number))
        states.append(jax.tree.map(jnp.copy, state))
        state, _ = step(state, batches[-1], 0, number)
    stream.close()
    assert 0 < metrics["clusters_used"] <= 1
    assert 1 / 16 <= metrics["largest_cluster"] <= 1
    return objective, len(parts.split), states, batches


def rows(state, crop):
    return np.asarray(state.objective_state["bank"]["embeddings"][str(crop)])


def test_the_first_pass_fills_both_banks_with_one_embedding(epoch):
    _, n, states, _ = epoch
    np.testing.assert_array_equal(rows(states[0], 0), rows(states[0], 1))
    np.testing.assert_allclose(np.linalg.norm(rows(states[0], 0)[:n], axis=1), 1, rtol=1e-5)
    assert not rows(states[0], 0)[n:].any()


def test_every_image_has_a_cluster_of_each_head_and_no_other_row(epoch):
    objective, n, states, _ = epoch
    for state in (states[0], states[-1]):
        assignments = np.asarray(state.objective_state["bank"]["assignments"])
        assert assignments.shape[1] == 3
        assert (assignments[:n] >= 0).all()
        assert (assignments[:n] < objective.prototypes).all()
        assert (assignments[n:] == -1).all()
        assert (assignments[:, 0] != assignments[:, 2]).any(), "heads have seeds of their own"


def test_a_step_writes_the_embedding_of_each_global_view_into_its_bank(epoch):
    objective, _, states, batches = epoch
    stats = states[0].model_state["batch_stats"]
    _, z, _ = multicrop.apply(objective.modules, states[0].params, stats, batches[0])
    index = np.asarray(batches[0]["index"])
    for crop in (0, 1):
        np.testing.assert_allclose(rows(states[1], crop)[index], networks.unit(z[:, crop]), atol=2e-4)
        others = np.setdiff1d(np.arange(len(rows(states[1], crop))), index)
        np.testing.assert_array_equal(rows(states[1], crop)[others], rows(states[0], crop)[others])


def test_clusters_stay_for_an_epoch_and_then_are_those_of_the_stored_embeddings(epoch):
    objective, n, states, _ = epoch
    first = states[0].objective_state
    for state in states[1:-1]:
        np.testing.assert_array_equal(state.objective_state["prototypes"], first["prototypes"])
        np.testing.assert_array_equal(state.objective_state["bank"]["assignments"], first["bank"]["assignments"])
    last = states[-1].objective_state
    assert np.abs(last["prototypes"] - first["prototypes"]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(last["prototypes"], axis=-1), 1, rtol=1e-5)
    for head in range(3):
        bank, centroids = rows(states[-1], head % 2), np.asarray(last["prototypes"][head])
        assignments = np.asarray(last["bank"]["assignments"])[:n, head]
        if objective.assignment == "kmeans":
            nearest = (bank[:n] @ centroids.T).argmax(1)
        else:
            a = clustering._potential(
                jnp.asarray(bank),
                jnp.arange(len(bank)) < n,
                jnp.asarray(centroids),
                0.05,
                objective.sinkhorn_iterations,
            )
            nearest = (bank[:n] @ centroids.T / 0.05 - np.asarray(a)).argmax(1)
        assert (assignments == nearest).mean() > 0.98


def test_prototypes_are_no_parameters(epoch):
    _, _, states, _ = epoch
    assert set(states[0].params) == {"backbone", "projector"}


def make(local_views=2, num_examples=100, **changes):
    offered = dict(num_examples=num_examples, batch_size=B, steps_per_epoch=3, local_views=local_views)
    backbone = MODELS.build("resnet10", {"base_width": 4})
    return OBJECTIVES.build("deepcluster", dict(prototypes=8) | changes, backbone=backbone, **offered)


def test_banks_of_half_the_bytes_are_written_and_clustered():
    objective = make(local_views=0, bank_dtype="bfloat16")
    batch = {"views": small.views(n=B), "index": jnp.arange(B)}
    state = small.state_of(objective, batch)
    assert {x.nbytes for x in state.objective_state["bank"]["embeddings"].values()} == {1024 * 128 * 2}
    _, aux = small.loss_of(objective, state, batch)
    remembered, _ = objective.finish(
        state.replace(objective_state=aux.objective_state), objective.phases[1], jax.random.key(0)
    )
    assignments = np.asarray(remembered["bank"]["assignments"])
    assert (assignments[:B] >= 0).all()
    assert (assignments[B:] == -1).all()


def test_clusters_are_found_before_each_epoch():
    assert [(p.every, p.first, p.reads) for p in make().phases] == [(0, 0, True), (3, 0, False)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prototypes=101), "deepcluster: prototypes; got 101; expected 2 to 100"),
        (dict(num_examples=20), "fewer rows than a batch"),
        (dict(assignment="knn"), "assignment"),
        (dict(temperature=0.0), "temperature"),
        (dict(epsilon=0.0), "epsilon"),
        (dict(clusterings=0), "clusterings"),
        (dict(iterations=0), "iterations"),
        (dict(bank_dtype="int8"), "bank_dtype"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
