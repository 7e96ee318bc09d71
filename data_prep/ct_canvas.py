"""Tools to draw CT slices: a canvas of Hounsfield units with a mask, a random field of view, scanner noise."""

from __future__ import annotations

import dataclasses
import math

import cv2
from jaxtyping import Float, UInt8
import numpy as np

AIR = -1000.0
MASK_VALUES = {"liver": 1, "liver_lesion": 2, "lung": 3, "lung_nodule": 4, "brain": 5, "brain_lesion": 6}
OVERSAMPLING = 2  # polygons have hard edges; averaging 2 x 2 pixels and the blur of the scanner soften them
_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_WAVES = np.stack([np.cos(k * _ANGLES) for k in (2, 3, 4)]), np.stack([np.sin(k * _ANGLES) for k in (2, 3, 4)])


class Draws:
    """Random numbers of one patient. Every slice makes the same draws in the same order, whatever it then shows."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def __call__(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def wave(self) -> Float[np.ndarray, "2 3"]:
        return self._rng.standard_normal((2, 3))


class Canvas:
    """A slice being painted: later shapes cover earlier ones, in the image and in the mask."""

    def __init__(self, size: int, transform: Float[np.ndarray, "2 3"]):
        side = size * OVERSAMPLING
        self.size = size
        self._transform = transform * side
        self.hu: Float[np.ndarray, "s s"] = np.full((side, side), AIR, np.float32)
        self.mask: UInt8[np.ndarray, "s s"] = np.zeros((side, side), np.uint8)

    def blob(
        self, x: float, y: float, a: float, b: float, hu: float, *, turn: float = 0.0,
        wave: Float[np.ndarray, "2 3"] | None = None, wobble: float = 0.0, mask: str = "",
    ) -> None:  # fmt: skip
        """Paints an ellipse with half-axes a, b, turned by `turn` rad, its edge waved by `wobble`."""
        if a <= 0 or b <= 0:
            return
        outline = _CIRCLE
        if wave is not None and wobble:
            outline = outline * (1 + wobble * (wave[0] @ _WAVES[0] + wave[1] @ _WAVES[1]))
        cos, sin = math.cos(turn), math.sin(turn)
        body = np.array([[a * cos, -b * sin], [a * sin, b * cos]]) @ outline + [[x], [y]]
        pixels = self._transform[:, :2] @ body + self._transform[:, 2:]
        points = np.rint(pixels.T * 16).astype(np.int32)  # 4 fractional bits
        cv2.fillPoly(self.hu, [points], hu, shift=4)
        cv2.fillPoly(self.mask, [points], MASK_VALUES.get(mask, 0), shift=4)

    def ring(self, x: float, y: float, a: float, b: float, wall: float, hu: float, inside: float, **shape) -> None:
        """An ellipse with a wall, as cortical bone around marrow."""
        self.blob(x, y, a, b, hu, **shape)
        self.blob(x, y, a - wall, b - wall, inside, **shape)


@dataclasses.dataclass(frozen=True)
class View:
    """Field of view and scanner of one series."""

    transform: Float[np.ndarray, "2 3"]
    noise: float
    sharpness: float
    table: float


def draw_view(rng: np.random.Generator) -> View:
    """Turned by up to 30 degrees, mirrored or not, zoomed by 0.7 to 1.3, shifted by up to a tenth of the view."""
    angle = np.deg2rad(rng.uniform(-30, 30))
    zoom = 0.36 * rng.uniform(0.7, 1.3)
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ mirror
    shift = 0.5 + rng.uniform(-0.1, 0.1, 2)
    return View(
        np.concatenate([zoom * turn, shift[:, None]], axis=1),
        noise=rng.uniform(8, 45), sharpness=rng.uniform(0.5, 0.9), table=rng.uniform(0.98, 1.12),
    )  # fmt: skip


def scanner_noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, "s s"]:
    """Noise of about unit deviation without low frequencies, as the ramp filter of the reconstruction leaves it."""
    white = rng.standard_normal((size, size), np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 0.6)
    return (smooth - cv2.GaussianBlur(smooth, (0, 0), 2.0)) * 2.3
