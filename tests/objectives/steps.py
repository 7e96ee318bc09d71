"""An objective by itself: its state at step 0, and updates of it on given batches."""

import functools

import jax
import optax

from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.state import TrainState
from radnet_jax.step import train_step

TX = optax.sgd(0.1)


def make(name, *, groups=1, num_examples=20, **kwargs):
    backbone = MODELS.build("resnet10", {"base_width": 4}, groups=groups)
    offered = dict(batch_size=8, num_examples=num_examples, total_steps=10, steps_per_epoch=2, groups=groups)
    return OBJECTIVES.build(name, kwargs, backbone=backbone, **offered)


def start(objective, batch, seed=0):
    """Returns the state before the first step."""

    def init(key):
        params, model_state, objective_state = objective.init(key, batch)
        state = TrainState(jax.numpy.int32(0), params, model_state, objective_state, TX.init(params), {})
        return state.replace(objective_state=objective.begin(state))

    return jax.jit(init)(jax.random.key(seed))


@functools.cache
def compiled(objective):
    return jax.jit(functools.partial(train_step, objective=objective, tx=TX))


def update(objective, state, batch):
    return compiled(objective)(state, batch, 0)


def views(seed=0, n=8, v=2, size=16):
    return jax.random.normal(jax.random.key(seed), (n, v, size, size, 3))
