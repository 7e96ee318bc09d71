"""PNG, JPEG, TIFF and npy files, and the resize rules of the preprocessing contract."""

from __future__ import annotations

import functools
import math
from pathlib import Path
import struct

import cv2
from jaxtyping import Float32, Int16, Integer, Num, UInt8
import numpy as np

from data_prep.guard import check_memory
from data_prep.spec import Reject
from radnet_jax.preprocessing import UNKNOWN_MASK

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
_LONGEST_BLOCK = 64  # longer ones are mostly weights of zero, and OpenCV is faster
_NO_MEMORY = -4  # cv::Error::StsNoMem


def read_image(path: Path, channels: int, value_range: tuple[float, float] | None = None) -> UInt8[np.ndarray, "h w c"]:
    """Reads a PNG, JPEG, TIFF or npy file as 8-bit grey (1 channel) or RGB (3 channels), upright by EXIF orientation.

    Transparency is dropped; grey is repeated to three channels, colour is brought to one by its luminance.

    Args:
      path: the file; npy arrays are (h, w), (h, w, 1) or (h, w, 3).
      channels: 1 or 3.
      value_range: values that become 0 and 255; without it the file must have 8 bits, since deeper values can't be
        brought to 8 without choosing a window.

    Raises:
      Reject: unreadable, empty_file, undecodable, multi_page, not_8_bit, not_finite, not_an_image, memory_limit.
    """
    image = read_values(path, channels)
    if value_range is not None:
        low, high = value_range
        scaled = (image.astype(np.float64) - low) / (high - low)
        return np.rint(scaled.clip(0.0, 1.0) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise Reject("not_8_bit", str(image.dtype))
    return image


def read_hu(path: Path, value_range: tuple[float, float]) -> Int16[np.ndarray, "h w"]:
    """Reads a grey file whose values are Hounsfield units (npy, TIFF): signed or floating, since air is negative.

    Raises:
      Reject: as `read_image`, and no_hu for unsigned values, which can't be Hounsfield units as they stand.
    """
    image = read_values(path, 1)[..., 0]
    if image.dtype.kind == "u":
        raise Reject("no_hu", str(image.dtype))
    return np.rint(image.astype(np.float64)).clip(*value_range).astype(np.int16)


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask of whole numbers 0 to 255 as they stand (a palette's colours count as grey).

    Raises:
      Reject: as `read_image`, and mask_value.
    """
    values = read_values(path, 1)[..., 0]
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if (values != np.rint(values)).any() or values.min() < 0 or values.max() > UNKNOWN_MASK:
        raise Reject("mask_value")
    return values.astype(np.uint8)


def read_values(path: Path, channels: int) -> Num[np.ndarray, "h w c"]:
    """Values of a file in the depth it has, as grey or RGB.

    Raises:
      Reject: unreadable, empty_file, undecodable, multi_page, not_finite, not_an_image, memory_limit.
    """
    try:
        if not path.is_file():
            raise Reject("unreadable", "not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    if not data:
        raise Reject("empty_file")
    image = _load_npy(path) if path.suffix.lower() == ".npy" else _decode(data, channels)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype.kind not in "biuf" or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
        raise Reject("not_an_image", f"{image.dtype} {image.shape}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise Reject("not_finite")
    if image.shape[2] > channels:
        image = _luminance(image)
    return np.repeat(image, channels // image.shape[2], axis=2) if image.shape[2] < channels else image


def _luminance(image: Num[np.ndarray, "h w 3"]) -> Num[np.ndarray, "h w 1"]:
    if image.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as OpenCV
    return (np.rint(grey) if image.dtype.kind in "iu" else grey).astype(image.dtype)[..., None]


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Reject("undecodable", str(error)) from error


def _decode(data: bytes, channels: int) -> np.ndarray:
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24:
        width, height = struct.unpack(">2I", data[16:24])
        check_memory(width * height * 3 * (2 if data[24] > 8 else 1))
    if _pages(data) > 1:
        raise Reject("multi_page")
    flag = (cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        if error.code == _NO_MEMORY:
            raise MemoryError from error
        raise Reject("undecodable", str(error)) from error
    if image is None:
        raise Reject("undecodable")
    return image[..., ::-1] if image.ndim == 3 else image


def _pages(data: bytes) -> int:
    """1 or 2 (= several) directories of a TIFF; 1 for other formats."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, place)
        (following,) = struct.unpack_from(order + "I", data, place + 2 + 12 * entries)
    except struct.error as error:
        raise Reject("undecodable", "broken TIFF directory") from error
    return 2 if following else 1


def resize(image: Num[np.ndarray, "h w c"], size: tuple[int, int]) -> Num[np.ndarray, "H W c"]:
    """Resizes without keeping the aspect ratio: area averages when shrinking, bilinear when enlarging; same dtype.

    Integers are averaged in float32 and rounded once, half to even.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(image)
    is_integer = np.issubdtype(image.dtype, np.integer)
    if is_integer and image.shape[2] == 1 and _averages_exactly(image, size):
        average = _area_average(image[..., 0], size)
        return np.rint(average, out=average).astype(image.dtype)[..., None]
    shrinks = size[0] <= height and size[1] <= width
    out = cv2.resize(
        np.ascontiguousarray(image, np.float32),
        size[::-1],
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    if is_integer:
        limits = np.iinfo(image.dtype)
        out = np.clip(np.rint(out), limits.min, limits.max)
    return out.astype(image.dtype).reshape(*size, image.shape[2])


@functools.lru_cache(maxsize=64)
def _area_weights(length: int, reduced: int) -> Float32[np.ndarray, "b a"]:
    """Weights of the area average from a pixels to b, the smallest numbers of the same ratio, as whole numbers: by how
    many b-th parts each of the a pixels lies in each of the b.
    """
    part = math.gcd(length, reduced)
    a, b = length // part, reduced // part
    ends, new_ends = np.arange(a + 1) * b, np.arange(b + 1)[:, None] * a
    overlap = np.minimum(ends[1:], new_ends[1:]) - np.maximum(ends[:-1], new_ends[:-1])
    return overlap.clip(0).astype(np.float32)


def _averages_exactly(image: Integer[np.ndarray, "h w 1"], size: tuple[int, int]) -> bool:
    """Whether `_area_average` applies: the image shrinks, in small blocks whose weighted sums float32 holds exactly."""
    height, width = image.shape[:2]
    rows, columns = height // math.gcd(height, size[0]), width // math.gcd(width, size[1])
    if size[0] > height or size[1] > width or max(rows, columns) > _LONGEST_BLOCK:
        return False
    largest = 1 << 8 * image.dtype.itemsize - (image.dtype.kind == "i")
    if rows * columns * largest <= 1 << 24:
        return True
    return rows * columns * max(-int(image.min()), int(image.max())) <= 1 << 24


def _area_average(image: Integer[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Area averages, three times as fast as OpenCV's: matrix products over blocks of rows, then of columns. Their sums
    are whole numbers that float32 holds exactly, so that every processor gives the same.
    """
    rows, columns = (_area_weights(length, reduced) for length, reduced in zip(image.shape, size))
    by_rows = rows @ image.astype(np.float32).reshape(-1, rows.shape[1], image.shape[1])
    turned = cv2.transpose(by_rows.reshape(size[0], image.shape[1]))
    sums = columns @ turned.reshape(-1, columns.shape[1], size[0])  # small products: no BLAS starts threads for them
    average = cv2.transpose(sums.reshape(size[1], size[0]))
    return np.divide(average, np.float32(rows.shape[1] * columns.shape[1]), out=average)


def pad_square(image: Num[np.ndarray, "h w c"], value: float) -> Num[np.ndarray, "s s c"]:
    """Pads the shorter side on both ends with `value`, so that no resize stretches the anatomy."""
    height, width = image.shape[:2]
    if height == width:
        return image
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = ((top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(image, edges, constant_values=value)


def fit(image: Num[np.ndarray, "h w c"], size: tuple[int, int], rule: str, lowest: float) -> Num[np.ndarray, "H W c"]:
    """Brings an image to `size` by a resize rule of `StoredPixels`: "pad_area" or "stretch_area"."""
    return resize(pad_square(image, lowest) if rule == "pad_area" else image, size)


def unfit_mask(mask: UInt8[np.ndarray, "H W"], size: tuple[int, int], rule: str) -> UInt8[np.ndarray, "h w"]:
    """Brings a mask of the stored size back to its image's rows and columns by the nearest pixel; undoes `fit_mask`."""
    height, width = size
    side = (max(size), max(size)) if rule == "pad_area" else size
    if mask.shape != side:
        mask = cv2.resize(np.ascontiguousarray(mask), side[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = (side[0] - height) // 2, (side[1] - width) // 2
    return np.ascontiguousarray(mask[top : top + height, left : left + width])


def fit_mask(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int], rule: str) -> UInt8[np.ndarray, "H W"]:
    """Brings a mask to `size` as `fit` brings its image, by the nearest pixel: no value is made that was not there."""
    if rule == "pad_area":
        mask = pad_square(mask[..., None], 0)[..., 0]
    if mask.shape == size:
        return np.ascontiguousarray(mask)
    return cv2.resize(np.ascontiguousarray(mask), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
