"""Dead leaves: images of occluding shapes whose sizes follow a power law.

With radii of density r^-3 the model has the scale invariance, edges and 1/f spectrum of photographs (Lee, Mumford and
Huang 2001); networks learn useful features from it (Baradad et al. 2021). Leaves are shaded, textured and coloured.
"""

from __future__ import annotations

import functools

import cv2
from jaxtyping import Float, Int32, UInt8
import numpy as np

_LEAVES = 180
_TEXTURES = 24
_TEXTURE_SIZE = 256


def dead_leaves(size: int, seed: tuple[int, ...]) -> UInt8[np.ndarray, "s s 3"]:
    """Draws one image: leaves fall from back to front; painted at twice the size and averaged down.

    Args:
      size: height and width in pixels.
      seed: another seed, another image.
    """
    rng = np.random.default_rng(seed)
    side = 2 * size
    palette = _palette(rng)
    smallest, largest = 0.03 * side, 0.5 * side
    u = rng.random(_LEAVES)
    radii = (u / largest**2 + (1 - u) / smallest**2) ** -0.5  # inverse distribution function of the density r^-3
    centres = rng.uniform(-0.1, 1.1, (_LEAVES, 2)) * side
    radii[0] = side  # leaf 0 is the ground
    top = np.zeros((side, side), np.int32)  # which leaf is seen at each pixel
    for i in range(1, _LEAVES):
        points = _outline(rng, radii[i]) + centres[i]
        cv2.fillPoly(top, [np.rint(points * 16).astype(np.int32)], i, shift=4)
    image = _shade(rng, top, centres, radii)[..., None] * _colours(rng, palette)[top]
    light = cv2.resize(rng.standard_normal((4, 4), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    image *= (1 + 0.2 * light)[..., None]
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    small += 3 * rng.standard_normal(small.shape, np.float32)
    return np.rint(small).clip(0, 255).astype(np.uint8)


def _colours(rng: np.random.Generator, palette: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "l 3"]:
    chosen = palette[rng.integers(len(palette), size=_LEAVES)]
    return (chosen + rng.normal(0, 8, (_LEAVES, 3))).astype(np.float32)


def _shade(
    rng: np.random.Generator,
    top: Int32[np.ndarray, "s s"],
    centres: Float[np.ndarray, "l 2"],
    radii: Float[np.ndarray, " l"],
) -> Float[np.ndarray, "s s"]:
    """Brightness factor of each pixel: a slope across its leaf, as on a curved surface, and the leaf's texture."""
    side = top.shape[0]
    slope = (rng.normal(0, 0.35, (_LEAVES, 2)) / (2 * radii[:, None])).astype(np.float32)
    base = (1 - (slope * centres).sum(1)).astype(np.float32)
    contrast = (rng.uniform(0, 0.3, _LEAVES) * (rng.random(_LEAVES) < 0.7)).astype(np.float32)
    which, offset = rng.integers(_TEXTURES, size=_LEAVES), rng.integers(_TEXTURE_SIZE, size=(2, _LEAVES))
    y, x = np.arange(side)[:, None], np.arange(side)[None, :]
    texture = _textures()[which[top], (y + offset[0][top]) % _TEXTURE_SIZE, (x + offset[1][top]) % _TEXTURE_SIZE]
    return (base[top] + slope[:, 0][top] * x + slope[:, 1][top] * y + contrast[top] * texture).astype(np.float32)


def _palette(rng: np.random.Generator) -> Float[np.ndarray, "n 3"]:
    """A few related colours, as one scene has: brightness varies most, then blue-yellow, then red-green."""
    mean = rng.uniform(60, 190)
    axes = np.array([[1, 1, 1], [1, 0.2, -1.1], [0.7, -1, 0.3]])
    spread = np.array([55, 28, 14]) * rng.uniform(0.5, 1.4, 3)
    tint = rng.normal(0, 1, 3) * [0, 14, 7]
    return mean + (rng.normal(0, 1, (12, 3)) * spread + tint) @ axes


def _outline(rng: np.random.Generator, radius: float) -> Float[np.ndarray, "n 2"]:
    """A disc, ellipse, polygon or wavy blob around the origin."""
    kind = rng.integers(3)
    n = (28, int(rng.integers(3, 7)), 28)[kind]
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 2 * np.pi)
    r = np.full(n, radius)
    if kind == 1:
        r = r * rng.uniform(0.7, 1.3, n)
    if kind == 2:
        phases, sizes = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0, 0.25, 4)
        r = r * (1 + sum(s * np.cos(k * angles + f) for k, s, f in zip((2, 3, 4, 5), sizes, phases)))
    squeeze, turn = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    x, y = r * np.cos(angles), r * np.sin(angles) * squeeze
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)


@functools.cache
def _textures() -> Float[np.ndarray, "n s s"]:
    """Periodic random textures of unit deviation: isotropic 1/f^a, and stripes."""
    rng = np.random.default_rng(1)
    f = np.fft.fftfreq(_TEXTURE_SIZE)
    fy, fx = np.meshgrid(f, f, indexing="ij")
    out = []
    for k in range(_TEXTURES):
        angle, stretch = rng.uniform(0, np.pi), (1.0 if k % 2 else rng.uniform(3, 8))
        u, v = np.cos(angle) * fx + np.sin(angle) * fy, np.cos(angle) * fy - np.sin(angle) * fx
        radius = np.hypot(u / stretch, v * stretch)
        radius[0, 0] = np.inf
        spectrum = np.fft.fft2(rng.standard_normal(radius.shape)) * radius ** -rng.uniform(0.8, 1.6)
        spectrum[radius < rng.uniform(0.01, 0.05)] = 0
        pattern = np.fft.ifft2(spectrum).real
        out.append(pattern / pattern.std())
    return np.stack(out).astype(np.float32)
