"""Random draws, one for each row, keyed by name: neither call order nor the number of devices changes them."""

from __future__ import annotations

import math
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from radnet_jax.errors import UserError


def row_keys(key: Key[Array, ""], rows: int, views: range, groups: int = 0) -> Key[Array, "b v"]:
    """Returns one key for each view of each row of the global batch.

    Keys depend on the row and the view only, so a row gets the same draws in a batch of any size, on any number of
    devices. With `groups` the rows of each group share theirs: group g holds rows g * rows / groups and on.

    Raises:
      UserError: where the groups do not divide the rows.
    """
    if groups and rows % groups:
        raise UserError("augment.groups does not divide the batch", got=f"{rows} rows in {groups} groups")

    def of_row(row: Array) -> Key[Array, " v"]:
        numbers = jnp.arange(views.start, views.stop)
        return jax.vmap(lambda view: jax.random.fold_in(jax.random.fold_in(key, row), view))(numbers)

    number = jnp.arange(rows)
    return jax.vmap(of_row)(number // (rows // groups) if groups else number)


def named(keys: Key[Array, " n"], name: str) -> Key[Array, " n"]:
    """Returns the keys of one purpose: other names give independent draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))(keys)


def uniform(keys: Key[Array, " n"], name: str, shape: tuple[int, ...] = ()) -> Float[Array, "n ..."]:
    """Returns draws from [0, 1) for each row; `name` says what they are for."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(named(keys, name))


def normal(keys: Key[Array, " n"], name: str, shape: tuple[int, ...] = ()) -> Float[Array, "n ..."]:
    """Returns draws of mean 0 and standard deviation 1 for each row."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(named(keys, name))


def between(u: Float[Array, "*s"], low: float, high: float) -> Float[Array, "*s"]:
    """Brings draws from [0, 1) to [low, high)."""
    return low + (high - low) * u


def factor(u: Float[Array, "*s"], strength: float) -> Float[Array, "*s"]:
    """Brings draws from [0, 1) to factors, log-uniform in [1 / (1 + strength), 1 + strength)."""
    return jnp.exp(math.log1p(strength) * between(u, -1, 1))


def chance(keys: Key[Array, " n"], name: str, probability: float | Float[Array, " n"]) -> Bool[Array, " n"]:
    """Returns True for each row with the given probability."""
    return uniform(keys, name) < probability


def permutations(keys: Key[Array, " n"], name: str, k: int) -> Int[Array, "n k"]:
    """Returns a permutation of 0 to k - 1 for each row, all equally likely."""
    return jnp.argsort(uniform(keys, name, (k,)), axis=1).astype(jnp.int32)


def boxes(
    keys: Key[Array, " n"],
    name: str,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    attempts: int = 10,
) -> tuple[Float[Array, "n 4"], Bool[Array, " n"]]:
    """Draws the boxes of a random resized crop (Szegedy et al. 2014, section 6; as torchvision, without rounding).

    The area is uniform in `scale` times the image's, the aspect ratio (width / height) log-uniform in `ratio`; the
    first of ten attempts that fits into the image counts, else the largest central box of a legal ratio.

    Returns:
      top, left, height, width in pixels; and whether an attempt fitted.
    """
    height, width = size
    u = uniform(keys, name, (attempts * 2 + 2,))
    area = height * width * between(u[:, :attempts], *scale)
    aspect = jnp.exp(between(u[:, attempts : 2 * attempts], math.log(ratio[0]), math.log(ratio[1])))
    tall, wide = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    fits = (tall <= height) & (wide <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    found = fits.any(axis=1)
    central = min(max(width / height, ratio[0]), ratio[1])
    fallback_h, fallback_w = min(height, width / central), min(width, height * central)
    h = jnp.where(found, jnp.take_along_axis(tall, first, axis=1)[:, 0], fallback_h)
    w = jnp.where(found, jnp.take_along_axis(wide, first, axis=1)[:, 0], fallback_w)
    top = (height - h) * jnp.where(found, u[:, -2], 0.5)
    left = (width - w) * jnp.where(found, u[:, -1], 0.5)
    return jnp.stack([top, left, h, w], axis=1), found


def largest_box(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[float, float]:
    """Returns the largest height and width that `boxes` can give."""
    area = scale[1] * size[0] * size[1]
    height, width = math.sqrt(area / ratio[0]), math.sqrt(area * ratio[1])
    if height <= size[0] and width <= size[1]:  # every attempt fits
        return height, width
    return float(size[0]), float(size[1])
