"""SimSiam: the formula, no gradient into the embeddings that are predicted, networks as in the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import networks
from tests.objectives import small


@pytest.fixture(scope="module")
def objective():
    return small.make("simsiam", dim=16, bottleneck=8)


@pytest.fixture(scope="module")
def batch():
    return {"views": small.views()}


@pytest.fixture(scope="module")
def state(objective, batch):
    return small.state_of(objective, batch)


def test_loss_is_the_papers(objective, state, batch):
    small.assert_equals_reference("simsiam", objective, state, batch)
    new, _ = small.stepper(objective)(state, batch)
    small.assert_equals_reference("simsiam", objective, new, batch)


def test_gradient_goes_through_the_predictions_only(objective, state, batch):
    stats = state.model_state["batch_stats"]
    apply = jax.jit(lambda params: networks.apply_views(objective.modules, params, stats, batch["views"])[0])
    fixed = apply(state.params)["projector"]

    def predicted(params):  # equation 2 with the targets as constants
        p = networks.unit(apply(params)["predictor"])
        return -jnp.mean(jnp.sum(p * networks.unit(fixed)[:, ::-1], axis=-1))

    want = jax.jit(jax.grad(predicted))(state.params)
    got = jax.jit(jax.grad(lambda p: objective.loss(p, state, batch, None)[0]))(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max() + 1e-6), got, want)


def test_the_mlps_are_the_papers(state):
    projector, predictor = (jax.tree.map(jnp.shape, state.params[n]) for n in ("projector", "predictor"))
    assert sorted(projector) == ["linear1", "linear2", "linear3", "norm1", "norm2"]  # norm3: no scale, no offset
    assert "norm3" in state.model_state["batch_stats"]["projector"]
    assert predictor["linear1"] == {"kernel": (16, 8)}
    assert predictor["linear2"] == {"kernel": (8, 16), "bias": (16,)}


def test_a_bottleneck_of_nothing_is_refused():
    with pytest.raises(UserError, match="simsiam: bottleneck; got 0"):
        small.make("simsiam", dim=16, bottleneck=0)


def test_parts_of_a_batch_are_the_mean_of_their_losses(objective, state, batch):
    _, metrics = small.stepper(objective, accumulate=2)(state, batch)
    halves = [small.loss_of(objective, state, {"views": batch["views"][i::2]})[0] for i in (0, 1)]
    np.testing.assert_allclose(metrics["loss"], np.mean(halves), rtol=1e-4)
