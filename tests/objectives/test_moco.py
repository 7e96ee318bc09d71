"""MoCo: the queue's order, what the target sees and how it moves, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import moco, networks
from tests.objectives import references
from tests.objectives.small import make, state_of, stepper, views

SMALL = dict(queue=24, projector_hidden=16, projector_dim=6, momentum=0.9, temperature=0.2)


@pytest.fixture(scope="module")
def objective():
    return make("moco", **SMALL)


@pytest.fixture(scope="module")
def trained(objective):
    """States before each of five steps and after the last, and the batches."""
    batches = [{"views": views(i)} for i in range(5)]
    states = [state_of(objective, batches[0])]
    for batch in batches:
        states.append(stepper(objective)(states[-1], batch)[0])
    return states, batches


def test_loss_is_equation_1_before_and_after_updates(objective, trained):
    states, batches = trained
    for i in (0, 3):
        loss, _ = jax.jit(objective.loss)(states[i].params, states[i], batches[i], jax.random.key(0))
        assert loss == pytest.approx(references.loss("moco", objective, states[i], batches[i], None), rel=1e-5)


def test_keys_enter_the_queue_in_order_after_the_loss_and_push_out_the_oldest(objective, trained):
    states, batches = trained
    queues = [state.objective_state["queue"] for state in states]
    assert [int(q["next"]) for q in queues] == [0, 8, 16, 0, 8, 16]
    for i, (state, batch) in enumerate(zip(states, batches, strict=False)):
        target = state.objective_state["target"]
        outputs, _ = networks.apply(
            objective.modules, target["params"], target["batch_stats"], batch["views"][:, 1], train=True
        )
        rows = np.arange(8) + 8 * (i % 3)
        np.testing.assert_allclose(queues[i + 1]["keys"][rows], networks.unit(outputs["projector"]), atol=1e-5)
        others = np.setdiff1d(np.arange(24), rows)
        np.testing.assert_array_equal(queues[i + 1]["keys"][others], queues[i]["keys"][others])


def test_the_target_starts_as_a_copy_and_moves_by_the_ema(trained):
    states, _ = trained
    jax.tree.map(np.testing.assert_array_equal, states[0].objective_state["target"]["params"], states[0].params)
    for before, after in itertools.pairwise(states):
        expected = jax.tree.map(
            lambda t, p: 0.9 * t + 0.1 * p, before.objective_state["target"]["params"], after.params
        )
        moved = after.objective_state["target"]["params"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), moved, expected)


def test_the_target_has_running_statistics_of_the_key_views(objective, trained):
    states, batches = trained
    online = states[1].model_state["batch_stats"]["backbone"]
    target = states[1].objective_state["target"]["batch_stats"]["backbone"]
    _, swapped = networks.apply(
        objective.modules, states[0].params, states[0].model_state["batch_stats"], batches[0]["views"][:, 1], train=True
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), target, swapped["backbone"])
    differ = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), online, target)
    assert max(jax.tree.leaves(differ)) > 1e-3


def test_no_gradient_reaches_what_is_remembered(objective, trained):
    states, batches = trained

    def loss(remembered):
        state = states[1].replace(objective_state=remembered)
        return objective.loss(state.params, state, batches[1], jax.random.key(0))[0]

    remembered = states[1].objective_state
    target = jax.grad(lambda t: loss({**remembered, "target": t}))(remembered["target"])
    assert all(not np.any(g) for g in jax.tree.leaves(target))


def test_one_layer_without_norm_is_the_first_versions_projector():
    objective = make("moco", **SMALL, projector_layers=1)
    params = state_of(objective, {"views": views()}).params["projector"]
    assert jax.tree.map(jnp.shape, params) == {"linear1": {"kernel": (32, 6), "bias": (6,)}}


def test_a_queue_as_long_as_the_batch_is_replaced_whole():
    queue = moco.first_queue(jax.random.normal(jax.random.key(0), (4, 3)))
    keys = jnp.eye(4, 3)
    new = moco.enqueue(queue, keys)
    np.testing.assert_array_equal(new["keys"], keys)
    assert new["next"] == 0


def test_with_groups_keys_are_made_in_other_groups_and_come_back_in_order():
    objective = make("moco", **SMALL, groups=2)
    batch = {"views": views()}
    state = state_of(objective, batch)
    keys, _ = moco.target_keys(objective.modules, state.objective_state, batch["views"][:, 1], 2)
    expected = np.zeros((8, 6), np.float32)
    target = state.objective_state["target"]
    for rows in ([0, 4, 1, 5], [2, 6, 3, 7]):  # two of each half of the batch
        whole = make("moco", **SMALL).modules
        x = batch["views"][np.array(rows), 1]
        outputs, _ = networks.apply(whole, target["params"], target["batch_stats"], x, train=True)
        expected[rows] = networks.unit(outputs["projector"])
    np.testing.assert_allclose(keys, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(queue=20), "a multiple of 8"),
        (dict(queue=0), "a multiple of 8"),
        (dict(temperature=0.0), "temperature"),
        (dict(momentum=1.0), "momentum"),
    ],
)
def test_what_cannot_work_is_refused(changes, match):
    with pytest.raises(UserError, match=match):
        make("moco", **{**SMALL, **changes})
