"""Masks that come as image files: several files of one image, names that belong to one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep import raw
from data_prep.ingest.image import read_values
from data_prep.spec import Reject


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
    """Rows and columns of an image file, by its first bytes where they tell it, else by decoding it.

    Raises:
      Reject: as `image.read_image`.
    """
    try:
        if not path.is_file():
            raise Reject("unreadable", "not a regular file")  # opening a pipe would wait for ever
        with path.open("rb") as file:
            size = raw.image_size(file)
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    return size or read_values(path, 1).shape[:2]
