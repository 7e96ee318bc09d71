"""BYOL: the formula, a target that follows and gets no gradient, BatchNorm by view, the batch in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import networks
from tests.objectives import small


@pytest.fixture(scope="module")
def objective():
    return small.make("byol", hidden=16, dim=8, momentum=0.9)


@pytest.fixture(scope="module")
def batch():
    return {"views": small.views()}


@pytest.fixture(scope="module")
def state(objective, batch):
    return small.state_of(objective, batch)


@pytest.fixture(scope="module")
def after(objective, batch, state):
    """The state after two steps."""
    step = small.stepper(objective)
    return step(step(state, batch)[0], batch)[0]


def test_loss_is_the_papers(objective, state, after, batch):
    small.assert_equals_reference("byol", objective, state, batch)
    small.assert_equals_reference("byol", objective, after, batch)


def test_the_target_begins_as_the_online_network(state):
    target = state.objective_state["target"]
    assert set(target["params"]) == {"backbone", "projector"}
    for name in target["params"]:
        jax.tree.map(np.testing.assert_array_equal, target["params"][name], state.params[name])


def test_the_target_follows_by_the_rising_momentum(objective, state, batch):
    new, _ = small.stepper(objective)(state, batch)
    for step, (before, now) in enumerate([(state, new), (new, small.stepper(objective)(new, batch)[0])]):
        momentum = 1 - (1 - 0.9) * (np.cos(np.pi * step / 10) + 1) / 2
        for name in ("backbone", "projector"):
            jax.tree.map(
                lambda t, o, got, m=momentum: np.testing.assert_allclose(got, m * t + (1 - m) * o, atol=1e-6),
                before.objective_state["target"]["params"][name],
                now.params[name],
                now.objective_state["target"]["params"][name],
            )


def test_no_gradient_reaches_the_target(objective, after, batch):
    def loss(target_params):
        target = {**after.objective_state["target"], "params": target_params}
        return objective.loss(after.params, after.replace(objective_state={"target": target}), batch, None)[0]

    gradient = jax.jit(jax.grad(loss))(after.objective_state["target"]["params"])
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))


def test_the_target_has_its_own_running_statistics(after):
    for name in ("backbone", "projector"):
        online = jax.tree.leaves(after.model_state["batch_stats"][name])
        target = jax.tree.leaves(after.objective_state["target"]["batch_stats"][name])
        assert any(np.abs(o - t).max() > 1e-6 for o, t in zip(online, target))


def test_batchnorm_sees_one_view_at_a_time(objective, state, batch):
    # A pass of its own for each view: other values in the second view change nothing of the first.
    stats = state.model_state["batch_stats"]
    apply = jax.jit(lambda views: networks.apply_views(objective.modules, state.params, stats, views)[0]["predictor"])
    other = batch["views"].at[:, 1].set(jnp.sin(3 * batch["views"][:, 1]))
    np.testing.assert_allclose(apply(other)[:, 0], apply(batch["views"])[:, 0], atol=1e-6)
    assert np.abs(apply(other)[:, 1] - apply(batch["views"])[:, 1]).max() > 1e-4


def test_parts_of_a_batch_are_the_mean_of_their_losses(objective, state, batch):
    _, metrics = small.stepper(objective, accumulate=2)(state, batch)
    halves = [small.loss_of(objective, state, {"views": batch["views"][i::2]})[0] for i in (0, 1)]
    np.testing.assert_allclose(metrics["loss"], np.mean(halves), rtol=1e-5)  # running statistics change no loss


def test_features_and_embedding_are_by_view(objective, state, batch):
    _, aux = small.loss_of(objective, state, batch)
    assert aux.features.shape == (8, 2, 32)
    assert aux.embedding.shape == (8, 2, 8)


def test_the_mlps_are_the_papers(state):
    shapes = jax.tree.map(jnp.shape, state.params["predictor"])
    assert shapes == {
        "linear1": {"kernel": (8, 16)},
        "norm1": {"scale": (16,), "bias": (16,)},
        "linear2": {"kernel": (16, 8)},
    }


def test_a_bad_momentum_is_refused():
    with pytest.raises(UserError, match="momentum"):
        small.make("byol", momentum=1.5)
