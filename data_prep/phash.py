"""A perceptual hash: images that look alike have hashes of few differing bits, whatever their size, format or contrast.

pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): the 8x8 block of the lowest
frequencies but the very lowest of a 32x32 DCT, one bit each. Departures: a bit is the sign of its coefficient (pHash
compares with the median), so that brightness and linear contrast play no part and the hash of a mirrored, turned or
inverted image follows from the hash alone; Hounsfield units go through a fixed curve first.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
from jaxtyping import Float, Num, UInt64
import numpy as np

from radnet_jax.preprocessing import StoredPixels

Size = tuple[int, int]
SIDE = 64  # of the reduced image, from which hash and comparison are made
PLAIN = 0.01  # deviation of the reduced image, of its range 1, below which there is nothing to tell images apart by
# Hounsfield units are shown as the mean of these windows (centre, width): soft tissue and lung. One of the two alone
# loses images that were exported under the other; measured in docs/audit.md.
CURVE = ((40.0, 400.0), (-600.0, 1500.0))


def tone(image: Num[np.ndarray, "h w c"], stored: StoredPixels) -> Float[np.ndarray, "h w"]:
    """Grey values in [0, 1]: HU through the curve, other values by their range, colour by its luminance (BT.601)."""
    values = np.ascontiguousarray(image, np.float32)
    grey = np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else values[..., 0])
    if stored.unit == "HU":
        soft, lung = (windowed(grey, *window) for window in CURVE)
        return (soft + lung) * np.float32(0.5)
    low, high = stored.value_range
    return windowed(grey, (low + high) / 2, high - low)


def windowed(values: Float[np.ndarray, "h w"], centre: float, width: float) -> Float[np.ndarray, "h w"]:
    """Values of a window as [0, 1]."""
    scaled = values * np.float32(1 / width) + np.float32(0.5 - centre / width)
    return scaled.clip(0.0, 1.0, out=scaled)


def content(raw: Size | None, stored: StoredPixels) -> tuple[slice, slice]:
    """Rows and columns of the stored image that hold the picture, without the padding that the build has added.

    Args:
      raw: rows and columns of the image in its file; None = not known, then all counts.
      stored: size and resize rule.
    """
    if raw is None or stored.resize != "pad_area":
        return slice(None), slice(None)
    side = max(raw)
    places = []
    for length, size in zip(raw, stored.size):
        first = (side - length) // 2
        start, stop = round(first * size / side), round((first + length) * size / side)
        places.append(slice(min(start, size - 1), max(stop, start + 1)))
    return places[0], places[1]


def reduced(
    image: Num[np.ndarray, "h w c"], box: tuple[slice, slice], side: int = SIDE
) -> Num[np.ndarray, "side side c"]:
    """The content of a stored image, stretched to a square: by area averages, bilinear where it is smaller than that.

    Averaging comes before any window, so that datasets of different stored sizes agree; in float32, since in a smooth
    image the high frequencies are less than a grey level.
    """
    part = np.ascontiguousarray(image[box], np.float32)
    shrinks = min(part.shape[:2]) >= side
    small = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return small.reshape(side, side, image.shape[2])


def phash(image: Num[np.ndarray, "h w c"], stored: StoredPixels, raw: Size | None) -> int | None:
    """The hash of a stored image as a 64-bit integer; None for one that is constant or nearly so (`PLAIN`).

    Bit 63 - 8 (u - 1) - (v - 1) is 1 where the DCT coefficient of vertical frequency u and horizontal frequency v is
    positive, u and v from 1 to 8.
    """
    grey = tone(reduced(image, content(raw, stored)), stored)
    if cv2.meanStdDev(grey)[1].item() < PLAIN:  # five times as fast as NumPy's
        return None
    frequencies = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))
    return int.from_bytes(np.packbits(frequencies[1:9, 1:9] > 0).tobytes(), "big")


def _mask(bit: Callable[[int, int], bool]) -> np.uint64:
    return np.uint64(sum(1 << (63 - 8 * (u - 1) - (v - 1)) for u in range(1, 9) for v in range(1, 9) if bit(u, v)))


# Turned round, a coefficient of odd frequency changes its sign and one of even frequency does not.
_LEFT_RIGHT = _mask(lambda u, v: v % 2 == 1)
_UP_DOWN = _mask(lambda u, v: u % 2 == 1)


def mirrored(hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Hashes of the images mirrored left to right."""
    return hashes ^ _LEFT_RIGHT


def upside_down(hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Hashes of the images mirrored top to bottom."""
    return hashes ^ _UP_DOWN


def inverted(hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Hashes of the images with black and white exchanged."""
    return ~hashes


def transposed(hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Hashes of the images with rows and columns exchanged: the 8x8 bits transposed (Warren, Hacker's Delight, 7-3)."""
    out = hashes
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        swap = (out ^ (out >> np.uint64(shift))) & np.uint64(mask)
        out = out ^ swap ^ (swap << np.uint64(shift))
    return out
