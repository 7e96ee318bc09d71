"""Images that are larger than what a network sees: windows over them, whose results are joined."""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num
import numpy as np

WEIGHTINGS = ("gaussian", "uniform")


def in_windows(
    logits_of: Callable[[Array], Array],
    image: Num[Array, "b h w c"],
    window: tuple[int, int],
    overlap: float = 0.5,
    weighting: str = "gaussian",
) -> Float[Array, "b h w k"]:
    """Returns the weighted mean of the logits of all windows that see a pixel.

    Windows are spread evenly, the first and the last at the borders; where one covers the image, it is the result.

    Args:
      logits_of: from windows [b i j c] to logits [b i j k].
      image: standardised, no side shorter than the window's.
      window: height and width.
      overlap: least overlap of neighbours, as a fraction of the window's side; below 1.
      weighting: "gaussian" or "uniform".
    """
    height, width = image.shape[1:3]
    starts = [
        (i, j) for i in window_starts(height, window[0], overlap) for j in window_starts(width, window[1], overlap)
    ]
    if len(starts) == 1:
        return logits_of(image)
    weights = jnp.asarray(_weights(window, weighting))[..., None]

    def one(at: Int[Array, " 2"]) -> Array:
        return logits_of(jax.lax.dynamic_slice(image, (0, at[0], at[1], 0), (len(image), *window, image.shape[3])))

    logits = jax.eval_shape(one, jnp.zeros(2, jnp.int32))
    total = jnp.zeros((len(image), height, width, logits.shape[-1]), jnp.float32)
    weight = jnp.zeros((height, width, 1), jnp.float32)

    def add(sums: tuple[Array, Array], at: Int[Array, " 2"]) -> tuple[tuple[Array, Array], None]:
        total, weight = sums
        corner, flat = (0, at[0], at[1], 0), (at[0], at[1], 0)
        here = jax.lax.dynamic_slice(total, corner, logits.shape) + weights * one(at)
        total = jax.lax.dynamic_update_slice(total, here, corner)
        there = jax.lax.dynamic_slice(weight, flat, weights.shape) + weights
        return (total, jax.lax.dynamic_update_slice(weight, there, flat)), None

    (total, weight), _ = jax.lax.scan(add, (total, weight), jnp.asarray(starts, jnp.int32))
    return total / weight


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """First pixels of the fewest windows that cover a side and overlap by at least this fraction."""
    room = side - window
    count = 1 + math.ceil(room / max(window * (1 - overlap), 1.0))
    return [round(i * room / max(count - 1, 1)) for i in range(count)]


def _weights(window: tuple[int, int], weighting: str) -> Float[np.ndarray, "i j"]:
    if weighting == "uniform":
        return np.ones(window, np.float32)
    along = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    return np.maximum(np.outer(*along), 1e-3).astype(np.float32)
