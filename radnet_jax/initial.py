"""The state that a run begins with, and its shapes, which say what is wrong before anything is computed."""

from __future__ import annotations

import functools
import math
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from radnet_jax import online, selection, sharding, starts, trees
from radnet_jax.augment import recipes
from radnet_jax.objectives import Objective
from radnet_jax.parts import Parts
from radnet_jax.state import TrainState
from radnet_jax.step import compiled_init, prepare


def initial_state(
    config: ConfigDict, parts: Parts, objective: Objective, tx: optax.GradientTransformation, recipe: recipes.Recipe
) -> TrainState:
    """Returns the state at step 0: random, with the start's backbone in place where there is one."""
    rules = sharding.make_rules(config.fsdp)
    shapes = batch_shapes(config, parts, objective, recipe)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = compiled_init(objective, tx, parts.mesh, rules, online.linear_probe(config, parts))(config.seed, batch)
    if parts.start is not None:
        params, model_state = starts.fill(parts.start, state.params, state.model_state, heads=objective.heads)
        # Optimizer states start at zero or one whatever the parameters are.
        state = state.replace(params=params, model_state=model_state)
        state = state.replace(objective_state=objective.begin(state))
    if config.average:
        # A copy: a donated state may not hold one array twice.
        weights = jax.tree.map(jnp.copy, {"params": state.params, "model_state": state.model_state})
        state = state.replace(aux={**state.aux, "average": weights})
    state = selection.begin(config, state)
    state = sharding.place(state, parts.mesh, rules)
    if rules:
        whole, here = trees.size_bytes(state), sharding.bytes_on_device(state)
        logging.info("state: %.1f MiB, %.1f MiB on each device", whole / 2**20, here / 2**20)
    return state


def batch_shapes(
    config: ConfigDict, parts: Parts, objective: Objective, recipe: recipes.Recipe
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what an objective sees of the smallest batch that has all groups."""
    stored = parts.adapter.stored
    n = math.lcm(config.groups, max(recipe.groups, 1))
    k = len(parts.split.card.labels)
    raw = {
        "image": jax.ShapeDtypeStruct((n, *stored.size, stored.channels), stored.dtype),
        "labels": jax.ShapeDtypeStruct((n, k), "float32"),
        "label_mask": jax.ShapeDtypeStruct((n, k), "float32"),
        "index": jax.ShapeDtypeStruct((n,), "int32"),
        "segmentation": jax.ShapeDtypeStruct((n, *stored.size), "uint8"),
    }
    stage = functools.partial(prepare, requires=objective.requires, adapter=parts.adapter, recipe=recipe)
    return jax.eval_shape(stage, raw, 0, 0)


def trace(config: ConfigDict, parts: Parts, objective: Objective, recipe: recipes.Recipe) -> None:
    """Follows the shapes through the loss, where sizes that can't be taken are refused, before a file is made."""
    batch = batch_shapes(config, parts, objective, recipe)
    params, model_state, remembered = jax.eval_shape(objective.init, jax.random.key(0), batch)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(step, params, model_state, remembered, (), {})
    state = state.replace(objective_state=jax.eval_shape(objective.begin, state))
    jax.eval_shape(objective.loss, params, state, batch, jax.random.key(0))
