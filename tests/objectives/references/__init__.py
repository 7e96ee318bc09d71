"""For each registered objective, a module of its name with two functions that the contract suite reads.

`reference(objective, state, batch, key) -> float` is the loss in NumPy float64, from the formula of the paper and what
the networks put out; `chance(objective, batch_size) -> float | None` the loss of embeddings that say nothing.
"""

import functools
import importlib
from unittest import mock

import jax

from radnet_jax.objectives import networks


def module_of(name):
    """Returns the module of a registered objective."""
    return importlib.import_module(f"{__name__}.{name}")


def loss(name, objective, state, batch, key):
    """Returns an objective's reference. Each chain of networks in it is one program: that takes half as long to compile
    as its operations one by one."""
    with mock.patch.object(networks, "apply", _apply):
        return module_of(name).reference(objective, state, batch, key)


def _apply(modules, *args, train):
    return _compiled(tuple(modules.items()), train)(*args)


@functools.lru_cache(maxsize=8)
def _compiled(modules, train, apply=networks.apply):
    return jax.jit(functools.partial(apply, dict(modules), train=train))
