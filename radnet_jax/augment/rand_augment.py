"""RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020).

The operations and their strengths are those that InfoMin was trained with: fifteen, without cutout. Images are planes
[n c h w] in [0, 1] of steps of 1/255: what an operation counts or compares, it rounds to 8 bits first.

Departures: images are moved with a bilinear filter always, theirs with a bilinear or a bicubic one, by chance; values
between are not rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from radnet_jax.augment import colour, filters, forms, geometry

Images = Float[Array, "n c h w"]
Level = Float[Array, " n"]

MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
VALUES = (
    *("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("saturation", "contrast", "brightness", "sharpness"),
)
OPERATIONS = (*MOVES, *VALUES)


def matrices(operation: Int[Array, " n"], level: Level, sign: Level, size: tuple[int, int]) -> Float[Array, "n 2 3"]:
    """Returns the maps of the operations that move pixels (see `geometry.affine`); for the others any.

    Args:
      operation: number in OPERATIONS.
      level: 0 to 1: of 30 degrees, a shear of 0.3, 45 % of the size.
      sign: 1 or -1.
      size: height and width.
    """
    height, width = size
    by, zero, one = level * sign, jnp.zeros(len(level)), jnp.ones(len(level))
    rotated = geometry.affine_matrices(30 * by, one, zero, jnp.zeros((len(level), 2)), size)
    shear = 0.3 * by  # about the upper left corner, half a pixel from the centre of the first
    rows = {"shear_y": [one, shear, shear / 2], "translate_y": [one, zero, 0.45 * height * by]}
    columns = {"shear_x": [shear, one, shear / 2], "translate_x": [zero, one, 0.45 * width * by]}
    found = rotated
    for number, name in enumerate(MOVES[1:], start=1):
        row = jnp.stack(rows.get(name, [one, zero, zero]), axis=1)
        column = jnp.stack(columns.get(name, [zero, one, zero]), axis=1)
        found = jnp.where((operation == number)[:, None, None], jnp.stack([row, column], axis=1), found)
    return found


def _levels(x: Images) -> Int[Array, "n c h w"]:
    return jnp.round(x.astype(jnp.float32) * 255).astype(jnp.int32)


def autocontrast(x: Images) -> Images:
    """Stretches each channel to [0, 1]; one of a single value stays."""
    wide = x.astype(jnp.float32)
    low, high = (f(f(wide, axis=2, keepdims=True), axis=3, keepdims=True) for f in (jnp.min, jnp.max))
    return jnp.where(high > low, (wide - low) / jnp.where(high > low, high - low, 1.0), wide).astype(x.dtype)


def equalize(x: Images) -> Images:
    """Has each channel take all of its 256 levels alike often; one of few levels stays (as PIL's ImageOps does)."""
    levels = _levels(x)

    def table(levels: Int[Array, "h w"]) -> Int[Array, " 256"]:
        counts = jnp.zeros(256, jnp.int32).at[levels.reshape(-1)].add(1)
        last = 255 - jnp.argmax(counts[::-1] > 0)
        step = (counts.sum() - counts[last]) // 255
        below = jnp.cumsum(counts) - counts + step // 2
        return jnp.where(step > 0, jnp.minimum(below // jnp.maximum(step, 1), 255), jnp.arange(256))

    def plane(levels: Int[Array, "h w"]) -> Float[Array, "h w"]:
        return table(levels)[levels] / 255

    return jax.vmap(jax.vmap(plane))(levels).astype(x.dtype)


def invert(x: Images) -> Images:
    return 1 - x


def posterize(x: Images, level: Level) -> Images:
    """Keeps the upper bits: four at level 1, three below, down to none."""
    bits = 8 - jnp.floor(4 * level).astype(jnp.int32)[:, None, None, None]
    kept = _levels(x) >> bits << bits
    return (kept / 255).astype(x.dtype)


def solarize(x: Images, level: Level) -> Images:
    """Inverts values from a threshold on: 256 at level 1, so none; the more, the lower the level."""
    threshold = jnp.floor(256 * level)[:, None, None, None]
    return jnp.where(_levels(x) >= threshold, 1 - x, x)


def solarize_add(x: Images, level: Level) -> Images:
    """Adds to values below one half: 110 of 255 at level 1."""
    more = jnp.floor(110 * level)[:, None, None, None] / 255
    return jnp.where(_levels(x) < 128, jnp.minimum(x + more, 1.0), x).astype(x.dtype)


def enhanced(level: Level) -> Level:
    """Returns the factor of saturation, contrast, brightness and sharpness: 0.1 to 1.9."""
    return 0.1 + 1.8 * level


def apply(
    x: Images,
    operation: Int[Array, "n k"],
    level: Float[Array, "n k"],
    sign: Float[Array, "n k"],
    done: Bool[Array, "n k"],
    outside: Float[Array, "n c"],
    *,
    form: str | None = None,
) -> Images:
    """Does the drawn operations one after the other.

    Args:
      x: images.
      operation: number in OPERATIONS of each.
      level: 0 to 1.
      sign: 1 or -1, of the operations that go either way.
      done: whether it is done at all.
      outside: the value around the image.
      form: as of `colour.jitter`.
    """
    for k in range(operation.shape[1]):
        y = _one(x, operation[:, k], level[:, k], sign[:, k], outside, form)
        x = jnp.where(done[:, k, None, None, None], y, x)
    return x


def _one(x: Images, operation: Array, level: Level, sign: Level, outside: Array, form: str | None) -> Images:
    size = (x.shape[2], x.shape[3])
    move: Callable[[Images], Images] = lambda x: geometry.affine(  # noqa: E731
        x, matrices(operation, level, sign, size), outside
    )
    changes: dict[str, Callable[[Images], Images]] = {
        "autocontrast": autocontrast,
        "equalize": equalize,
        "invert": invert,
        "posterize": lambda x: posterize(x, level),
        "solarize": lambda x: solarize(x, level),
        "solarize_add": lambda x: solarize_add(x, level),
        "saturation": lambda x: colour.saturation(x, enhanced(level)),
        "contrast": lambda x: colour.contrast(x, enhanced(level)),
        "brightness": lambda x: colour.brightness(x, enhanced(level)),
        "sharpness": lambda x: filters.sharpen(x, enhanced(level)[:, None, None, None]),
    }
    values = [changes[name] for name in VALUES]
    number = jnp.maximum(operation - len(MOVES) + 1, 0)  # 0 moves
    if forms.choose("order", form) == "switch" and x.shape[0] == 1:
        return lax.switch(number[0], [move, *values], x)
    results = [function(x) for function in (move, *values)]
    return jnp.select([(number == i)[:, None, None, None] for i in range(len(results))], results, x)
