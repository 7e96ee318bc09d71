"""Random draws, one for each row, keyed by name: neither call order nor the number of devices changes them."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def row_keys(key: Key[Array, ""], rows: int, n_views: int) -> Key[Array, " n"]:
    """Returns one key for each view of each row of the global batch, batch-major: n = rows * n_views.

    Keys depend on the row and the view only, so a row gets the same draws in a batch of any size, on any number of
    devices.
    """

    def of_row(row: Array) -> Key[Array, " v"]:
        return jax.vmap(lambda view: jax.random.fold_in(jax.random.fold_in(key, row), view))(jnp.arange(n_views))

    return jax.vmap(of_row)(jnp.arange(rows)).reshape(rows * n_views)


def named(keys: Key[Array, " n"], name: str) -> Key[Array, " n"]:
    """Returns the keys of one purpose: other names give independent draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))(keys)


def uniform(keys: Key[Array, " n"], name: str, shape: tuple[int, ...] = ()) -> Float[Array, "n ..."]:
    """Returns draws from [0, 1) for each row; `name` says what they are for."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(named(keys, name))


def between(u: Float[Array, "*s"], low: float, high: float) -> Float[Array, "*s"]:
    """Brings draws from [0, 1) to [low, high)."""
    return low + (high - low) * u


def chance(keys: Key[Array, " n"], name: str, probability: float) -> Bool[Array, " n"]:
    """Returns True for each row with the given probability."""
    return uniform(keys, name) < probability
