"""Whether two stored images show the same picture, by their pixels: the rule that confirms what hashes suggest.

Chest X-rays, or CT slices at one level, look alike by nature: their coarse shapes correlate by 0.9 and more. What tells
two pictures of one kind apart is the detail, so only that is compared: each image, reduced to 64 pixels a side, less
its own blur and divided by the local strength of what is left (so that one bright marker or border does not decide).
The correlation of the middle of one with the other is taken at shifts of a sixteenth and scales of up to 6 % either
way, for crops; its maximum is the likeness.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import cv2
from jaxtyping import Float, Num, UInt64
import numpy as np

from data_prep import phash
from data_prep.phash import SIDE, Size, content, reduced, tone, windowed
from radnet_jax.preprocessing import StoredPixels, Window

SMALLEST = 16  # pixels a side; smaller images have no detail left to compare
SCALES = (0.94, 0.97, 1.0, 1.03, 1.06)
_BLUR = 1 / 32  # of the side
_FLOOR = 0.5  # of the deviation of the detail; less is noise and is not brought up
# Under these, apart from the curve of `phash`, a CT slice is held against an image that is not in HU: soft tissue,
# lung, bone, brain, wide.
WINDOWS: tuple[Window, ...] = ((40.0, 400.0), (-600.0, 1500.0), (400.0, 1800.0), (40.0, 80.0), (0.0, 2000.0))


class Turn(NamedTuple):
    """A way in which a copy can lie: rows and columns exchanged, then mirrored, then upside down; or inverted grey."""

    transposed: bool
    mirrored: bool
    upside_down: bool
    inverted: bool

    def hashes(self, hashes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        """The hashes that the turned images have."""
        steps = (phash.transposed, phash.mirrored, phash.upside_down, phash.inverted)
        for wanted, step in zip(self, steps):
            hashes = step(hashes) if wanted else hashes
        return hashes

    def views(self, views: Float[np.ndarray, "v s s"]) -> Float[np.ndarray, "v s s"]:
        """The detail of the turned image."""
        views = views.transpose(0, 2, 1) if self.transposed else views
        views = views[:, :, ::-1] if self.mirrored else views
        views = views[:, ::-1] if self.upside_down else views
        return np.ascontiguousarray(-views if self.inverted else views)

    def __str__(self) -> str:
        place = _NAMES[self[:3]]
        return ", ".join(name for name in (place, "inverted" if self.inverted else "") if name)


_NAMES = {
    (False, False, False): "", (False, True, False): "mirrored", (False, False, True): "upside down",
    (False, True, True): "turned by 180 degrees", (True, False, False): "transposed",
    (True, True, False): "turned right", (True, False, True): "turned left",
    (True, True, True): "transposed the other way",
}  # fmt: skip
TURNS = tuple(Turn._make(bits) for bits in itertools.product((False, True), repeat=4))


def side_of(one: StoredPixels, other: StoredPixels) -> int:
    """Pixels a side at which images of two datasets are compared."""
    return min(SIDE, *one.size, *other.size)


def views(
    image: Num[np.ndarray, "h w c"], stored: StoredPixels, raw: Size | None, side: int, *, windows: bool
) -> Float[np.ndarray, "v s s"]:
    """The detail of an image, ready to compare: one view, or with `windows` one more for each of WINDOWS.

    Args:
      image: stored pixels.
      stored: what they are.
      raw: rows and columns of the image in its file, None = not known.
      side: of the views.
      windows: whether this is an image in HU that is held against one that is not.
    """
    small = reduced(image, content(raw, stored), side)
    grey = [tone(small, stored)]
    if windows:
        grey += [windowed(small[..., 0], *window) for window in WINDOWS]
    return np.stack([_detail(g) for g in grey])


def _detail(grey: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "s s"]:
    sigma = _BLUR * grey.shape[0]
    detail = grey - cv2.GaussianBlur(grey, (0, 0), sigma)
    strength = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 2 * sigma))
    return detail / (strength + _FLOOR * detail.std() + 1e-6)


def likeness(one: Float[np.ndarray, "v s s"], other: Float[np.ndarray, "w s s"]) -> float:
    """The largest correlation over views, shifts and scales, at most 1; 0 where an image has no detail."""
    side = one.shape[1]
    margin = max(2, side // 16)
    best = 0.0
    for a, b in itertools.product(one, other):
        middle = a[margin : side - margin, margin : side - margin]
        if middle.std() < 1e-3 or b.std() < 1e-3:
            continue
        for scale in SCALES:
            size = round(side * scale)
            scaled = b if size == side else cv2.resize(b, (size, size), interpolation=cv2.INTER_LINEAR)
            best = max(best, float(cv2.matchTemplate(scaled, middle, cv2.TM_CCOEFF_NORMED).max()))
    return min(best, 1.0)
