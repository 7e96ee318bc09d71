"""Blur and noise of a batch of images in [0, 1], each example with its own strength; masks stay as they are.

Images are planes [n c h w], float32 or bfloat16; the arithmetic is float32.
"""

from __future__ import annotations

import math

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from radnet_jax.augment import forms


def gaussian_blur(
    x: Float[Array, "n c h w"], sigma: Float[Array, " n"], *, radius: int, form: str | None = None
) -> Float[Array, "n c h w"]:
    """Separable Gaussian filter of 2 * radius + 1 taps; sigma 0 leaves an image as it is.

    At the border the filter is cut and its weights sum to 1 again (torchvision mirrors the image there).

    Args:
      x: images of at least `radius` + 1 pixels.
      sigma: standard deviation in pixels, for each image.
      radius: taps on each side, the same for all.
      form: "shifts" sums shifted images (20 times faster than a depthwise convolution on CPU); "matrix" multiplies
        with a banded matrix on either side.
    """
    offsets = jnp.arange(radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    if forms.choose("blur", form) == "matrix":
        rows, columns = (_band(weights, size).astype(x.dtype) for size in x.shape[2:])
        precision = lax.Precision.HIGH if x.dtype == jnp.float32 else None
        y = jnp.einsum("nih,nchw->nciw", rows, x, precision=precision)
        return jnp.einsum("njw,nciw->ncij", columns, y, precision=precision)
    always = (sigma >= 0).all()
    for axis in (2, 3):
        x = forms.apart(always, lambda x, axis=axis: _shifted_sum(x, weights, axis), x)
    return x


def _band(weights: Float[Array, "n r"], size: int) -> Float[Array, "n i j"]:
    distance = jnp.abs(jnp.arange(size)[:, None] - jnp.arange(size))
    radius = weights.shape[1] - 1
    band = jnp.where(distance <= radius, weights[:, jnp.minimum(distance, radius)], 0.0)
    return band / band.sum(axis=2, keepdims=True)


def _shifted_sum(x: Float[Array, "n c h w"], weights: Float[Array, "n r"], axis: int) -> Float[Array, "n c h w"]:
    radius = weights.shape[1] - 1
    size = x.shape[axis]
    pad = [(0, 0)] * 4
    pad[axis] = (radius, radius)
    padded = jnp.pad(x, pad)

    def shifted(by: int) -> Float[Array, "n c h w"]:
        return lax.slice_in_dim(padded, radius + by, radius + by + size, axis=axis).astype(jnp.float32)

    position = jnp.arange(size)
    total = weights[:, :1]
    w = weights[:, :, None, None, None]
    y = w[:, 0] * x
    for t in range(1, radius + 1):
        inside = (position >= t).astype(jnp.float32) + (position + t < size)
        total = total + weights[:, t, None] * inside
        y = y + w[:, t] * (shifted(t) + shifted(-t))
    inverse = 1 / total
    return (y * (inverse[:, None, :, None] if axis == 2 else inverse[:, None, None, :])).astype(x.dtype)


def sharpen(x: Float[Array, "n c h w"], factor: float | Float[Array, "n 1 1 1"]) -> Float[Array, "n c h w"]:
    """Blends with a smoothed image: factor 0 is smooth, 1 the original, 2 sharper (as torchvision).

    The filter is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay as they are.
    """
    h, w = x.shape[2:]
    wide = x.astype(jnp.float32)
    box = sum((wide[:, :, i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)), jnp.zeros(()))
    inner = wide[:, :, 1:-1, 1:-1]
    smooth = (box + 4 * inner) / 13
    sharp = jnp.clip(smooth + factor * (inner - smooth), 0.0, 1.0)
    return lax.dynamic_update_slice(wide, sharp, (0, 0, 1, 1)).astype(x.dtype)


def _normal(keys: Key[Array, " n"], shape: tuple[int, ...]) -> Float[Array, "n ..."]:
    return jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),)))(keys).reshape(-1, *shape)


def gaussian_noise(
    keys: Key[Array, " n"], x: Float[Array, "n c h w"], std: Float[Array, " n"]
) -> Float[Array, "n c h w"]:
    """Adds independent normal noise of standard deviation `std`, clipped to [0, 1]."""
    noise = _normal(keys, x.shape[1:])
    return jnp.clip(x + std[:, None, None, None] * noise, 0.0, 1.0).astype(x.dtype)


def rician_noise(
    keys: Key[Array, " n"], x: Float[Array, "n c h w"], std: Float[Array, " n"]
) -> Float[Array, "n c h w"]:
    """The magnitude of a complex signal whose parts have normal noise (Gudbjartsson & Patz 1995), clipped to [0, 1].

    sqrt((x + a)^2 + b^2) with a and b of standard deviation `std`: the noise of magnetic resonance images.
    """
    noise = std[:, None, None, None, None] * _normal(keys, (2, *x.shape[1:]))
    return jnp.minimum(jnp.sqrt((x + noise[:, 0]) ** 2 + noise[:, 1] ** 2), 1.0).astype(x.dtype)
