"""Masks that come as image files: several files of one image, names that belong to one image."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
from pathlib import Path
import struct

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.image import read_values
from data_prep.spec import Reject

_PNG = b"\x89PNG\r\n\x1a\n"


def read_foreground(paths: Sequence[Path], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Reads the masks of one image, for example of its left and its right lung, as one: 1 where any is above 0.

    Args:
      paths: PNG, GIF, TIFF or npy files.
      size: rows and columns that each of them must have.

    Raises:
      Reject: mask_mismatch (another size), and as `image.read_image`.
    """
    union = np.zeros(size, np.uint8)
    for path in paths:
        values = read_values(path, 1)[..., 0]
        if values.shape != size:
            raise Reject("mask_mismatch", f"{values.shape}, expected {size}")
        union |= values > 0
    return union


def image_size(path: Path) -> tuple[int, int]:
    """Rows and columns of an image file; a PNG is not decoded for it.

    Raises:
      Reject: as `image.read_image`.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(24)
        if start[:8] == _PNG and len(start) == 24:
            width, height = struct.unpack(">2I", start[16:])
            return height, width
    height, width, _ = read_values(path, 1).shape
    return height, width
