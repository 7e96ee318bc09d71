"""Small objectives with their states, for tests of what is special about each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.state import TrainState
from radnet_jax.step import train_step
from tests.objectives import references

SGD = optax.sgd(0.05)


def make(name, backbone=None, *, groups=1, **kwargs):
    """An objective of a run of ten steps, five an epoch, of batches of eight; `kwargs` may say otherwise."""
    backbone = backbone or MODELS.build("resnet10", {"base_width": 4}, groups=groups)
    offered = {"total_steps": 10, "steps_per_epoch": 5, "batch_size": 8, "num_examples": 40, "local_views": 0}
    offered = {k: v for k, v in (offered | {"groups": groups}).items() if k not in kwargs}
    return OBJECTIVES.build(name, kwargs, backbone=backbone, **offered)


def views(seed=0, n=8, v=2, size=16):
    return jax.random.normal(jax.random.key(seed), (n, v, size, size, 3))


def state_of(objective, batch, tx=None, seed=0):
    params, model_state, objective_state = jax.jit(objective.init)(jax.random.key(seed), batch)
    state = TrainState(jnp.int32(0), params, model_state, objective_state, (tx or SGD).init(params), {})
    return state.replace(objective_state=objective.begin(state))


@functools.cache
def stepper(objective, tx=None, **options):
    """Returns the compiled train step: (state, batch) -> (state, metrics)."""
    step = functools.partial(train_step, objective=objective, tx=tx or SGD, **options)
    return jax.jit(lambda state, batch: step(state, batch, 0))


def loss_of(objective, state, batch, seed=1):
    return jax.jit(objective.loss)(state.params, state, batch, jax.random.key(seed))


def assert_equals_reference(name, objective, state, batch, rtol=1e-5):
    """The loss is that of the plain NumPy of `references/<name>.py`."""
    loss, _ = loss_of(objective, state, batch)
    expected = references.loss(name, objective, state, batch, jax.random.key(1))
    np.testing.assert_allclose(loss, expected, rtol=rtol, atol=1e-6)
