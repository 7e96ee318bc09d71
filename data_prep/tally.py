"""What the pixels of a shard's records add up to: the histogram of values, and how much of each structure is there."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import functools
from typing import Any

import cv2
from jaxtyping import Int64, Num, UInt8
import numpy as np

from radnet_jax.preprocessing import StoredPixels

BINS = 256


def bin_width(stored: StoredPixels) -> int:
    """Values that fall into one bin of the histogram; the first begins at the lowest value of the range."""
    low, high = stored.value_range
    return max(1, -int(-(high - low + 1) // BINS))


@functools.lru_cache(maxsize=8)
def _bins(dtype: np.dtype, low: int, width: int) -> UInt8[np.ndarray, " words"]:
    """The bin of each value of a 16-bit type, by its word."""
    words = np.arange(1 << 16, dtype=np.uint16)
    return ((words.view(dtype).astype(np.int32) - low) // width).clip(0, BINS - 1).astype(np.uint8)


@dataclasses.dataclass
class Tally:
    """Sums over images.

    Attributes:
      histogram: for each channel the number of pixels in each of BINS bins, the padding of the build left out.
      masks: for each mask value from 1 the images that have it and its pixels.
    """

    histogram: Int64[np.ndarray, "c bins"]
    masks: Int64[np.ndarray, "k 2"]

    @classmethod
    def empty(cls, stored: StoredPixels, structures: int) -> Tally:
        return cls(np.zeros((stored.channels, BINS), np.int64), np.zeros((structures, 2), np.int64))

    def add(
        self,
        image: Num[np.ndarray, "h w c"],
        mask: UInt8[np.ndarray, "h w"] | None,
        box: tuple[slice, slice],
        stored: StoredPixels,
    ) -> None:
        """Adds an image of a dataset `stored` as it says, whose content lies in `box`."""
        bins = np.ascontiguousarray(image[box])
        if image.dtype != np.uint8:
            low = int(stored.value_range[0])
            bins = cv2.LUT(bins.view(f"u{image.dtype.itemsize}"), _bins(image.dtype, low, bin_width(stored)))
            bins = bins.reshape(*bins.shape[:2], -1)
        for channel, counts in enumerate(self.histogram):
            counts += cv2.calcHist([bins], [channel], None, [BINS], [0, BINS]).ravel().astype(np.int64)
        if mask is not None:
            pixels = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[1 : 1 + len(self.masks)].astype(np.int64)
            self.masks += np.stack([pixels > 0, pixels], axis=1)

    def to_json(self) -> dict[str, Any]:
        return {"histogram": self.histogram.tolist(), "masks": self.masks.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tally:
        return cls(np.array(data["histogram"], np.int64), np.array(data["masks"], np.int64).reshape(-1, 2))


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of one or more tallies."""
    first, *others = tallies
    out = Tally(first.histogram.copy(), first.masks.copy())
    for tally in others:
        out.histogram += tally.histogram
        out.masks += tally.masks
    return out
