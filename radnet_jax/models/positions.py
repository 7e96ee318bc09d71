"""Where a patch is: the fixed sine-cosine table, and tables resampled to another number of patches."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


def sincos(rows: int, columns: int, dim: int) -> Float[np.ndarray, "n d"]:
    """The fixed 2-D embedding of MAE (He et al. 2021, appendix A.1), patches row by row.

    The one-dimensional embedding of Vaswani et al. 2017 (section 3.5), all sines before all cosines, of the column in
    the first half of the channels and of the row in the second. MoCo v3's is the same with the halves exchanged.

    Args:
      rows: patches from top to bottom.
      columns: patches from left to right.
      dim: channels; a multiple of 4.
    """
    frequencies = 10000.0 ** -(np.arange(dim // 4) / (dim // 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    angles = (column[:, None] * frequencies, row[:, None] * frequencies)
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def resample(table: Float[Array, "n d"], was: tuple[int, int], now: tuple[int, int]) -> Float[Array, "m d"]:
    """Resamples a table of positions, patches row by row, from one grid to another; float32.

    Bicubic (a = -0.75, pixel centres, no smoothing when the grid gets smaller), as the public vision transformers'
    tables are in PyTorch. DINO's code shifts the grid by 0.1 of a patch, against a rounding error; here it is exact.

    Args:
      table: one row for each patch.
      was: rows and columns of patches of the table.
      now: rows and columns that are wanted.
    """
    if was == now:
        return table
    grid = jnp.asarray(table, jnp.float32).reshape(*was, -1)
    down, across = (jnp.asarray(_bicubic(a, b)) for a, b in zip(was, now))
    return jnp.einsum("ph,qw,hwd->pqd", down, across, grid, precision="highest").reshape(now[0] * now[1], -1)


def _bicubic(source: int, target: int) -> Float[np.ndarray, "t s"]:
    """Matrix of cubic convolution (Keys 1981, equation 4 with a = -0.75); pixels beyond the edge repeat it."""
    matrix = np.zeros((target, source))
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centre).astype(int) - 1
    for i in range(4):
        np.add.at(matrix, (np.arange(target), np.clip(first + i, 0, source - 1)), _cubic(centre - (first + i)))
    return matrix.astype(np.float32)


def _cubic(x: Any, a: float = -0.75) -> Any:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
