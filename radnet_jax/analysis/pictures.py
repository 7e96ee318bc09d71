"""Pictures of an analysis: strips of images, and maps on the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
from jaxtyping import Array, Float, UInt8
import numpy as np

from radnet_jax import examples
from radnet_jax.analysis.attribution import SIGNED
from radnet_jax.preprocessing import Adapter

_SIDE = 112  # pixels of a tile, at most
_GAP = 2
_RAISES, _LOWERS = (213, 94, 0), (0, 114, 178)  # RGB; told apart by the colour-blind too (Okabe and Ito)


def strip(rows: Sequence[Float[Array, "n h w c"]], adapter: Adapter) -> bytes:
    """Returns a PNG of images as the model sees them, a row above the other."""
    tiles = [[_smaller(tile) for tile in examples.tiles(row, adapter)] for row in rows]
    h, w = tiles[0][0].shape[:2]
    out = np.full((len(tiles) * (h + _GAP) - _GAP, max(map(len, tiles)) * (w + _GAP) - _GAP, 3), 255, np.uint8)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            out[i * (h + _GAP) : i * (h + _GAP) + h, j * (w + _GAP) : j * (w + _GAP) + w] = tile
    return examples.png(out)


def of_maps(
    image: Float[Array, "1 h w c"], maps: Mapping[str, Float[np.ndarray, "h w"]], adapter: Adapter
) -> dict[str, bytes]:
    """Returns PNGs of the maps of an image by their names, and of itself as "image"."""
    (tile,) = examples.tiles(image, adapter)
    drawn = {name: draw(values, signed=name in SIGNED) for name, values in maps.items()}
    return {"image": examples.png(_smaller(tile))} | {name: examples.png(_smaller(x)) for name, x in drawn.items()}


def draw(values: Float[np.ndarray, "h w"], *, signed: bool) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a map by its own largest value, of which the upper hundredth is cut: 0 is white.

    Signed, what raises the number is orange and what lowers it blue; else all is black.
    """
    most = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max())
    share = (values / most if most > 0 else values).clip(-1, 1)[..., None]
    colour = np.where(share > 0, _RAISES, _LOWERS) if signed else np.zeros(3)
    return (255 - np.abs(share) * (255 - colour)).round().astype(np.uint8)


def _smaller(tile: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
    h, w = tile.shape[:2]
    scale = min(1.0, _SIDE / max(h, w))
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    return cv2.resize(tile, size, interpolation=cv2.INTER_AREA) if scale < 1 else tile
