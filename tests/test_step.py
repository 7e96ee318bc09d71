"""One update by hand: parts of a batch, the running average, and what a step that is not finite leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax import nonfinite, rng, sharding
from radnet_jax.state import LossAux, TrainState
from radnet_jax.step import train_step


@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean square error over the rows that count; counts its calls in `model_state`."""

    requires = frozenset({"image", "label_mask"})
    heads = ""

    def loss(self, params, state, batch, rng):
        error = (batch["image"] @ params["w"] - 1) ** 2 * batch["label_mask"]
        loss = error.sum() / jnp.maximum(batch["label_mask"].sum(), 1)
        seen = {"calls": state.model_state["calls"] + 1}
        return loss, LossAux(seen, state.objective_state, {"largest": error.max()})

    def after_update(self, state):
        return state.params, state.objective_state

    def weight(self, batch, rng):
        return batch["label_mask"].sum()


TX = optax.sgd(0.1, momentum=0.9)


def start(average=0.0):
    params = {"w": jnp.arange(3.0)}
    model_state = {"calls": jnp.zeros(())}
    aux = {"average": jax.tree.map(jnp.copy, {"params": params, "model_state": model_state})} if average else {}
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, {}, TX.init(params), aux)


def data(n=16):
    rng = np.random.default_rng(0)
    return {"image": rng.random((n, 3), np.float32), "label_mask": (rng.random(n) > 0.4).astype(np.float32)}


def update(state, batch, step=None, **options):
    return jax.jit(lambda s, b, i: train_step(s, b, 0, i, objective=Regression(), tx=TX, **options))(state, batch, step)


def test_a_part_is_weighed_with_the_draws_of_its_loss():
    class Drawn(Regression):
        def loss(self, params, state, batch, rng):
            return jax.random.uniform(rng) + 0 * params["w"].sum(), LossAux(state.model_state, {}, {})

        def weight(self, batch, rng):
            return jax.random.uniform(rng)

    _, metrics = train_step(start(), data(), 0, objective=Drawn(), tx=TX, accumulate=2)
    key = rng.stream(0, "loss", 0)
    draws = np.array([jax.random.uniform(jax.random.fold_in(key, part)) for part in range(2)])
    assert metrics["loss"] == pytest.approx(np.average(draws, weights=draws), rel=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_update_of_the_whole(parts):
    whole, whole_metrics = update(start(), data())
    state, metrics = update(start(), data(), accumulate=parts)
    np.testing.assert_allclose(state.params["w"], whole.params["w"], rtol=1e-6)
    assert metrics["loss"] == pytest.approx(float(whole_metrics["loss"]), rel=1e-6)
    assert state.model_state["calls"] == parts


def test_parts_stay_on_their_devices():
    mesh = sharding.make_mesh(4)
    batch = sharding.put_batch(data(), mesh)
    run = jax.jit(lambda s, b: train_step(s, b, 0, objective=Regression(), tx=TX, accumulate=2))
    compiled = run.lower(sharding.replicate(start(), mesh), batch).compile().as_text()
    assert "all-gather" not in compiled
    assert "all-to-all" not in compiled
    state, _ = run(sharding.replicate(start(), mesh), batch)
    np.testing.assert_allclose(state.params["w"], update(start(), data())[0].params["w"], rtol=1e-6)


def test_the_average_follows_the_weights():
    state, expected = start(average=0.9), np.arange(3.0)
    for t in range(30):
        state, _ = update(state, data(), average=0.9)
        momentum = min(0.9, (1 + t) / (10 + t))
        expected = momentum * expected + (1 - momentum) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.aux["average"]["params"]["w"], expected, rtol=1e-5)
    assert 0 < state.aux["average"]["model_state"]["calls"] < 30


def test_a_step_that_is_not_finite_and_all_after_it_change_nothing():
    before, _ = update(start(average=0.5), data(), 0, average=0.5)
    bad = data() | {"image": np.full((16, 3), np.nan, np.float32)}
    state, metrics = update(before, bad, 1, average=0.5)
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, state, before)
    state, metrics = update(state, data(), 2, average=0.5)  # the loop was one step ahead
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, state, before)
    state, metrics = update(state, data(), 1, average=0.5)
    assert metrics["finite"]
    assert int(state.step) == 2


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s, b: (s.replace(params={"w": s.params["w"] * jnp.nan}), b), "params w"),
        (lambda s, b: (s, b | {"image": np.full((16, 3), np.inf, np.float32)}), "batch image"),
        (lambda s, b: (s.replace(params={"w": jnp.full(3, 1e25)}), b), "loss"),
        (lambda s, b: (s, b), None),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_first_leaf_that_is_not_finite_is_named(spoil, named, accumulate):
    state, batch = spoil(start(), data())
    names = nonfinite.first_leaves(Regression(), state, batch, jax.random.key(0), accumulate)
    assert (names[0] if names else None) == named
