"""Changes of colour, sharpness and noise of a batch of images in [0, 1], each example with its own strength.

Colour changes work on planes and clip to [0, 1].
"""

from __future__ import annotations

import math

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as torchvision and TensorFlow

# One map for each channel: colours side by side in memory cost twice the time on CPU (loops over 3 channels).
Planes = tuple[Float[Array, "n h w"], ...]


def split(x: Float[Array, "n h w c"]) -> Planes:
    """Returns the channels."""
    return tuple(x[..., i] for i in range(x.shape[-1]))


def merge(planes: Planes) -> Float[Array, "n h w c"]:
    """Puts channels together again."""
    return jnp.stack(planes, axis=-1)


def _each(values: Float[Array, " n"]) -> Float[Array, "n 1 1"]:
    return values[:, None, None]


def _blend(planes: Planes, base: Float[Array, "n ..."], factor: Float[Array, " n"]) -> Planes:
    return tuple(jnp.clip(base + _each(factor) * (x - base), 0.0, 1.0) for x in planes)


def luma(planes: Planes) -> Float[Array, "n h w"]:
    """Brightness of colour images; other images: the mean of their channels."""
    weights = _LUMA if len(planes) == 3 else (1 / len(planes),) * len(planes)
    return sum((w * x for w, x in zip(weights, planes)), jnp.zeros((), planes[0].dtype))


def brightness(planes: Planes, factor: Float[Array, " n"]) -> Planes:
    """Times the factor."""
    return _blend(planes, jnp.zeros((1, 1, 1)), factor)


def contrast(planes: Planes, factor: Float[Array, " n"]) -> Planes:
    """Blends with the mean luma of the image: factor 0 is flat, 1 the original."""
    return _blend(planes, luma(planes).mean(axis=(1, 2), keepdims=True), factor)


def saturation(planes: Planes, factor: Float[Array, " n"]) -> Planes:
    """Blends with the luma of each pixel: factor 0 is gray, 1 the original."""
    return _blend(planes, luma(planes), factor)


def hue(planes: Planes, shift: Float[Array, " n"]) -> Planes:
    """Turns the hue of HSV by `shift` of a full circle; value and saturation stay. Three channels."""
    r, g, b = planes
    high = jnp.maximum(jnp.maximum(r, g), b)
    chroma = high - jnp.minimum(jnp.minimum(r, g), b)
    inverse = 1.0 / jnp.where(chroma > 0, chroma, 1.0)
    # Compared with each other, not with `high`: in a fused loop a compiler may round the same value in two ways; where
    # two channels are nearly equal, both sectors give the same hue.
    sector = jnp.where(
        (r >= g) & (r >= b),
        (g - b) * inverse,
        jnp.where(g >= b, 2.0 + (b - r) * inverse, 4.0 + (r - g) * inverse),
    )
    sector = sector + 6.0 * _each(shift)

    def channel(offset: float) -> Float[Array, "n h w"]:  # Smith 1978, without branches
        k = sector + offset
        k = k - 6.0 * jnp.floor(k * (1 / 6))
        return high - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return channel(5.0), channel(3.0), channel(1.0)


def grayscale(planes: Planes, apply: Bool[Array, " n"]) -> Planes:
    """Luma in all channels where `apply` is True."""
    gray = luma(planes)
    return tuple(jnp.where(_each(apply), gray, x) for x in planes)


def gaussian_blur(x: Float[Array, "n h w c"], sigma: Float[Array, " n"], *, radius: int) -> Float[Array, "n h w c"]:
    """Separable Gaussian filter of 2 * radius + 1 taps; sigma 0 leaves an image as it is.

    At the border the filter is cut and its weights sum to 1 again. Sums of shifted images: a depthwise convolution is
    20 times slower on CPU, and mirrored borders of colour images cost 4 times the sums.

    Args:
      x: images of at least `radius` + 1 pixels.
      sigma: standard deviation in pixels, for each image.
      radius: taps on each side, the same for all.
    """
    n, height, width, channels = x.shape
    offsets = jnp.arange(radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    flat = x.reshape(n, height, width * channels)  # long rows: loops over 3 channels are not vectorised
    flat = _blur_axis(flat, weights, axis=1, step=1)
    return _blur_axis(flat, weights, axis=2, step=channels).reshape(x.shape)


def _blur_axis(
    x: Float[Array, "n h w"], weights: Float[Array, "n r"], *, axis: int, step: int
) -> Float[Array, "n h w"]:
    radius = weights.shape[1] - 1
    size = x.shape[axis]
    pad = [(0, 0)] * 3
    pad[axis] = (radius * step, radius * step)
    padded = jnp.pad(x, pad)

    def shifted(by: int) -> Float[Array, "n h w"]:
        return lax.slice_in_dim(padded, (radius + by) * step, (radius + by) * step + size, axis=axis)

    position = jnp.arange(size) // step
    total = weights[:, :1]
    y = weights[:, 0, None, None] * x
    for t in range(1, radius + 1):
        inside = (position >= t).astype(x.dtype) + (position + t < size // step)
        total = total + weights[:, t, None] * inside
        y = y + weights[:, t, None, None] * (shifted(t) + shifted(-t))
    return y / jnp.expand_dims(total, 3 - axis)


def gaussian_noise(
    keys: Key[Array, " n"], x: Float[Array, "n h w c"], std: Float[Array, " n"]
) -> Float[Array, "n h w c"]:
    """Adds independent normal noise of standard deviation `std`, clipped to [0, 1]."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (math.prod(x.shape[1:]),)))(keys)
    return jnp.clip(x + std[:, None, None, None] * noise.reshape(x.shape), 0.0, 1.0)
