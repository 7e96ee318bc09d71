"""PNG and JPEG files, and the resize rules of the preprocessing contract."""

from __future__ import annotations

from pathlib import Path

import cv2
from jaxtyping import Num, UInt8
import numpy as np

from data_prep.spec import Reject

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Reads an 8-bit PNG or JPEG as grey (1 channel) or RGB (3 channels), upright by its EXIF orientation.

    Transparency is dropped; grey is repeated to three channels, colour is brought to one by its luminance.

    Raises:
      Reject: unreadable, undecodable, or more than 8 bits deep (which can't be brought to 8 without choosing a window).
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    if not data.size:
        raise Reject("empty_file")
    if _png_depth(data) > 8:
        raise Reject("not_8_bit", "16-bit PNG")
    flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(data, flag)
    except cv2.error as error:
        raise Reject("undecodable", str(error)) from error
    if image is None:
        raise Reject("undecodable")
    return image[..., ::-1] if channels == 3 else image[..., None]


def _png_depth(data: UInt8[np.ndarray, n]) -> int:
    """Bits of each channel as the PNG header says; 0 for another format."""
    is_png = data[:8].tobytes() == b"\x89PNG\r\n\x1a\n" and data.size > 24
    return int(data[24]) if is_png else 0


def resize(image: Num[np.ndarray, "h w c"], size: tuple[int, int]) -> Num[np.ndarray, "H W c"]:
    """Resizes without keeping the aspect ratio: area averages when shrinking, bilinear when enlarging; same dtype.

    Integers are averaged in float32 and rounded once, half to even.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(image)
    shrinks = size[0] <= height and size[1] <= width
    out = cv2.resize(
        np.ascontiguousarray(image, np.float32),
        size[::-1],
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        out = np.clip(np.rint(out), limits.min, limits.max)
    return out.astype(image.dtype).reshape(*size, image.shape[2])


def pad_square(image: Num[np.ndarray, "h w c"], value: float) -> Num[np.ndarray, "s s c"]:
    """Pads the shorter side on both ends with `value`, so that no resize stretches the anatomy."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = ((top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(image, edges, constant_values=value)


def fit(image: Num[np.ndarray, "h w c"], size: tuple[int, int], rule: str, lowest: float) -> Num[np.ndarray, "H W c"]:
    """Brings an image to `size` by a resize rule of `StoredPixels`: "pad_area" or "stretch_area"."""
    return resize(pad_square(image, lowest) if rule == "pad_area" else image, size)
