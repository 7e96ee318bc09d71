"""Tiles of a jigsaw puzzle, made of stored pixels on the device: what PIRL and InfoMin show beside the image."""

from __future__ import annotations

from collections.abc import Callable
import functools
import zlib

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, Num

from radnet_jax import sharding
from radnet_jax.augment import draws, forms, views
from radnet_jax.augment.recipes import Recipe
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import Adapter

GRID = 3
TILES = GRID * GRID
_LEAST = 4  # pixels of a tile's side
_NUMBER = 1_000_000  # as a view tiles come after all others, for probabilities that differ by view


@functools.partial(jax.jit, static_argnames=("adapter", "recipe", "mesh", "form"))
def make_tiles(
    image: Num[Array, "b h w c"],
    adapter: Adapter,
    recipe: Recipe,
    key: Key[Array, ""],
    *,
    mesh: Mesh | None = None,
    form: str | None = None,
) -> Float[Array, "b 9 i j k"]:
    """Returns nine tiles of each image, in an order of its own, standardised for the model.

    A random crop (`recipe.tile_crop`) is resized to 255 / 224 of the model's input and divided into 3 x 3 parts. From
    each part a tile of 64 / 224 of the model's input is taken, at a random place: its neighbours' edges do not meet
    (Misra & van der Maaten 2020, section 3.3; Noroozi & Favaro 2016). The recipe moves the crop as it moves views, and
    changes the values of each tile by themselves.

    Args as of `views.make_views`; draws are keyed by the row of the global batch and repeat none of the views'.

    Raises:
      UserError: where the tiles of such an input are smaller than 4 px.
    """
    height, width = adapter.model_input.size
    tile = (round(height * 64 / 224), round(width * 64 / 224))
    if min(tile) < _LEAST:
        raise UserError(
            "the model's input is too small to be cut into tiles",
            got=f"{height} x {width} px, tiles of {tile[0]} x {tile[1]}",
            expected="at least 14 px a side",
        )
    key = jax.random.fold_in(key, zlib.crc32(b"tiles"))
    keys = draws.row_keys(key, image.shape[0], range(1 + TILES), recipe.groups)
    stage: Callable[..., Array] = functools.partial(
        _stage, adapter=adapter, recipe=recipe, tile=tile, form=forms.choose("rows", form)
    )
    return (stage if mesh is None else sharding.by_row(stage, mesh))(image, keys)


def _stage(
    image: Array, keys: Key[Array, "b n"], *, adapter: Adapter, recipe: Recipe, tile: tuple[int, int], form: str
) -> Float[Array, "b 9 i j k"]:
    b, scale = len(image), min(adapter.model_input.size)
    height, width = (round(side * 255 / 224) for side in adapter.model_input.size)
    whole = (height, width)
    last = functools.partial(jnp.full, fill_value=_NUMBER)
    moves = views.draw(keys[:, 0], last(b), recipe, adapter, whole, recipe.tile_crop)
    changes = views.draw(keys[:, 1:].reshape(-1), last(b * TILES), recipe, adapter, tile, (1.0, 1.0), scale)
    starts = _starts(keys[:, 0], whole, tile)

    def some(rows: Int[Array, " m"]) -> Array:
        drawn = jax.tree.map(lambda values: values[rows], moves)
        x, _ = views.place(lambda: image[rows], None, drawn, recipe, adapter, whole, recipe.tile_crop)
        cut = _cut(x, starts[rows], tile)
        nine = (rows[:, None] * TILES + jnp.arange(TILES)).reshape(-1)
        drawn = jax.tree.map(lambda values: values[nine], changes)
        done = views.recolour(cut.reshape(-1, *cut.shape[2:]), drawn, recipe, adapter, scale)
        return done.reshape(-1, TILES, *done.shape[1:])

    return forms.each_row(some, b) if form == "each" else some(jnp.arange(b))


def _starts(keys: Key[Array, " b"], whole: tuple[int, int], tile: tuple[int, int]) -> Int[Array, "b 9 2"]:
    """Draws the order of the parts, and the place of the tile in each: its first row and column."""
    part = jnp.asarray([side // GRID for side in whole])
    room = part - jnp.asarray(tile)
    order = draws.permutations(keys, "order of tiles", TILES)
    moved = jnp.floor(draws.uniform(keys, "places of tiles", (TILES, 2)) * (room + 1)).astype(jnp.int32)
    return jnp.stack([order // GRID, order % GRID], axis=-1) * part + moved


def _cut(x: Float[Array, "m c h w"], starts: Int[Array, "m 9 2"], tile: tuple[int, int]) -> Float[Array, "m 9 c i j"]:
    def one(planes: Float[Array, "c h w"], start: Int[Array, " 2"]) -> Float[Array, "c i j"]:
        return lax.dynamic_slice(planes, (0, start[0], start[1]), (len(planes), *tile))

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(x, starts)
