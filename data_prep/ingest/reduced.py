"""Large JPEG files decoded at a fraction of their size, straight from the low frequencies of their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import cv2
from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.image import read_image
from data_prep.raw import image_size
from data_prep.spec import Reject

# The reduced image keeps at least this many times the side it is then averaged to. By 2 the stored pixels differ from
# those of a full decoding by 0.2 of 255 on average in a radiograph of 7 megapixels (one pixel of a hundred by 1), and
# by up to 1.5 in a picture of hard edges (one of a hundred by 17); by 1 it is up to 2.3 (25). Decoding and averaging
# take 1.4 to 2.5 times less time.
MARGIN = 2
_COLOUR = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_GREY = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}


def read_reduced(path: Path, channels: int, size: int) -> UInt8[np.ndarray, "h w c"]:
    """Reads an image as `read_image` does; a JPEG much larger than `size` at 1/2, 1/4 or 1/8 of its height and width.

    Args:
      path: the file, of any format that `read_image` knows, whatever its name ends in.
      channels: 1 or 3.
      size: height and width that the image will be brought to.

    Raises:
      Reject: as `read_image`.
    """
    factor = _factor(path, size)
    if factor == 1:
        return read_image(path, channels)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    try:
        image = cv2.imdecode(data, (_COLOUR if channels == 3 else _GREY)[factor])
    except cv2.error as error:
        raise Reject("undecodable", str(error)) from error
    if image is None:
        raise Reject("undecodable")
    return image[..., ::-1] if channels == 3 else image[..., None]


def _factor(path: Path, size: int) -> int:
    """1, or by how much a JPEG file may be reduced."""
    if not path.is_file():
        return 1  # a pipe would be read to its end; `read_image` rejects it
    try:
        with path.open("rb") as file:
            shortest = _shorter_side(file)
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    return next((factor for factor in (8, 4, 2) if shortest >= MARGIN * factor * size), 1)


def _shorter_side(file: BinaryIO) -> int:
    """Of a JPEG; 0 for other files and broken ones."""
    if file.read(2) != b"\xff\xd8":
        return 0
    file.seek(0)
    return min(image_size(file) or (0,))
