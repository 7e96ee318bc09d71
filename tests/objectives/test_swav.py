"""SwAV's objective: prototypes on the sphere and frozen at first, the queue's order, one reference, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax import step as steps
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES, multicrop, networks
from radnet_jax.state import TrainState
from tests.objectives import references

B = 8


def make(local_views=2, **changes):
    arguments = dict(prototypes=6, freeze_steps=2, projector_hidden=16, projector_dim=8) | changes
    offered = dict(num_examples=100, batch_size=B, total_steps=10, local_views=local_views)
    return OBJECTIVES.build("swav", arguments, backbone=MODELS.build("resnet10", {"base_width": 4}), **offered)


def batch(seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    return {"views": jax.random.normal(a, (B, 2, 24, 24, 3)), "local_views": jax.random.normal(b, (B, 2, 10, 10, 3))}


def start(objective, tx):
    params, model_state, remembered = jax.jit(objective.init)(jax.random.key(0), batch())
    return TrainState(jnp.int32(0), params, model_state, remembered, tx.init(params), {})


def stepped(objective, count, tx=None):
    """The states before each step and after the last, and the batches."""
    tx = tx or optax.sgd(0.1)
    step = jax.jit(lambda state, batch: steps.train_step(state, batch, 0, objective=objective, tx=tx)[0])
    states, batches = [start(objective, tx)], [batch(i) for i in range(count)]
    for b in batches:
        states.append(step(states[-1], b))
    return states, batches


def test_loss_is_the_papers_also_with_a_full_queue():
    objective = make(queue_size=2 * B, queue_from_step=1)
    states, batches = stepped(objective, 4)
    for state, b in zip(states, batches):
        loss, _ = jax.jit(objective.loss)(state.params, state, b, jax.random.key(1))
        np.testing.assert_allclose(loss, references.loss("swav", objective, state, b, None), rtol=1e-4)


def test_prototypes_have_length_one_and_stay_at_first():
    states, _ = stepped(make(freeze_steps=2), 4, optax.sgd(0.5))
    vectors = [s.params["prototypes"]["vectors"] for s in states]
    for v in vectors:
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-6)
    assert np.abs(vectors[3] - vectors[2]).max() > 1e-4


def test_weight_decay_moves_no_frozen_prototype():
    states, _ = stepped(make(freeze_steps=2), 2, optax.adamw(0.1, weight_decay=0.5))
    np.testing.assert_allclose(
        states[2].params["prototypes"]["vectors"], states[0].params["prototypes"]["vectors"], atol=1e-6
    )


def test_queue_holds_the_newest_global_embeddings_from_its_step_on():
    objective = make(queue_size=2 * B, queue_from_step=1)
    states, batches = stepped(objective, 4)
    queues = [np.asarray(s.objective_state["queue"]) for s in states]
    assert not queues[0].any()
    assert not queues[1].any()
    z = []
    for state, b in zip(states, batches):
        stats = state.model_state["batch_stats"]
        out = multicrop.apply(objective.modules, state.params, stats, b)[1][:, :2]
        z.append(np.asarray(networks.unit(out)).swapaxes(0, 1))
    np.testing.assert_allclose(queues[2][:, :B], z[1], atol=1e-4)
    assert not queues[2][:, B:].any()
    np.testing.assert_allclose(queues[4], np.concatenate([z[3], z[2]], axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(queue_size=12), "no multiple of the batch; got 12, batch_size 8; use 0"),
        (dict(prototypes=101), "swav: prototypes; got 101"),
        (dict(prototypes=1), "swav: prototypes"),
        (dict(temperature=0.0), "swav: temperature"),
        (dict(epsilon=-1.0), "swav: epsilon"),
        (dict(iterations=0), "iterations"),
        (dict(freeze_steps=-1), "freeze_steps"),
        (dict(queue_size=2 * B, queue_from_step=8), "ends before its queue is full.*full at step 10 of 10"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
