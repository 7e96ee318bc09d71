"""Changes of pixel values of a batch of images in [0, 1], each example with its own strength; masks stay as they are.

Images are planes [n c h w], float32 or bfloat16; the arithmetic is float32, the result has the type of the input and is
clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from radnet_jax.augment import forms

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as torchvision and TensorFlow

Images = Float[Array, "n c h w"]
Strength = Float[Array, " n"]


def _each(values: Strength) -> Float[Array, "n 1 1 1"]:
    return values[:, None, None, None].astype(jnp.float32)


def _weights(channels: int) -> tuple[float, ...]:
    return _LUMA if channels == 3 else (1 / channels,) * channels


def luma(x: Images) -> Float[Array, "n 1 h w"]:
    """Brightness of colour images, float32; other images: the mean of their channels."""
    weights = _weights(x.shape[1])
    return sum((w * x[:, i : i + 1].astype(jnp.float32) for i, w in enumerate(weights)), jnp.zeros((), jnp.float32))


def _blend(x: Images, base: Float[Array, "n ..."], factor: Strength) -> Images:
    return jnp.clip(base + _each(factor) * (x - base), 0.0, 1.0).astype(x.dtype)


def brightness(x: Images, factor: Strength) -> Images:
    """Times the factor."""
    return _blend(x, jnp.zeros((1, 1, 1, 1), jnp.float32), factor)


def contrast(x: Images, factor: Strength) -> Images:
    """Blends with the mean luma of the image: factor 0 is flat, 1 the original."""
    # Means of the columns first: sums along a row are not vectorised on CPU.
    channels = x.mean(axis=2, dtype=jnp.float32).mean(axis=2)
    mean = sum((w * channels[:, i] for i, w in enumerate(_weights(x.shape[1]))), jnp.zeros((), jnp.float32))
    return _blend(x, _each(mean), factor)


def saturation(x: Images, factor: Strength) -> Images:
    """Blends with the luma of each pixel: factor 0 is gray, 1 the original."""
    return _blend(x, luma(x), factor)


def hue(x: Images, shift: Strength) -> Images:
    """Turns the hue of HSV by `shift` of a full circle; value and saturation stay. Three channels."""
    r, g, b = (x[:, i].astype(jnp.float32) for i in range(3))
    # The channels are sorted as highest, middle, lowest; `start` says between which corners of the circle they lie.
    high, low, start = jnp.maximum(g, b), jnp.minimum(g, b), jnp.where(g < b, -6.0, 0.0)
    start = jnp.where(r < high, -2.0 - start, start)
    top, middle = jnp.maximum(r, high), jnp.minimum(r, high)
    chroma = top - jnp.minimum(middle, low)
    angle = jnp.abs(start + (middle - low) / jnp.where(chroma > 0, chroma, 1.0))  # in [0, 6]
    angle = angle + 6.0 * shift[:, None, None].astype(jnp.float32)
    angle = angle - 6.0 * jnp.floor(angle * (1 / 6))
    ramps = (jnp.abs(angle - 3.0) - 1.0, 2.0 - jnp.abs(angle - 2.0), 2.0 - jnp.abs(angle - 4.0))  # Smith 1978
    return jnp.stack([top - chroma + chroma * jnp.clip(k, 0.0, 1.0) for k in ramps], axis=1).astype(x.dtype)


OPERATIONS: Mapping[str, Callable[[Images, Strength], Images]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


def jitter(
    x: Images, strengths: Mapping[str, Strength], order: Int[Array, "n k"], *, form: str | None = None
) -> Images:
    """Changes brightness, contrast, saturation and hue, in an order of its own for each image.

    Args:
      x: images; of three channels where saturation or hue are changed.
      strengths: "brightness", "contrast", "saturation" (factors) and "hue" (shift), or some of them.
      order: for each image a permutation of 0 to k - 1, the numbers of the k strengths as they stand in OPERATIONS.
      form: "switch" computes only what comes next and takes one image at a time; "select" computes all operations and
        keeps the one that is next.
    """
    operations = [
        functools.partial(lambda x, operation, s: operation(x, s), operation=operation, s=strengths[name])
        for name, operation in OPERATIONS.items()
        if name in strengths
    ]
    if forms.choose("order", form) == "switch" and x.shape[0] == 1:
        return lax.fori_loop(0, len(operations), lambda k, x: lax.switch(order[0, k], operations, x), x)
    for k in range(len(operations)):
        is_next = [(order[:, k] == i)[:, None, None, None] for i in range(len(operations))]
        x = jnp.select(is_next, [operation(x) for operation in operations], x)
    return x


def grayscale(x: Images) -> Images:
    """Luma in all channels."""
    return saturation(x, jnp.zeros(len(x)))


def solarize(x: Images, threshold: float = 0.5) -> Images:
    """Inverts the values from the threshold on."""
    return jnp.where(x >= threshold, 1 - x, x)


def gamma(x: Images, exponent: Strength) -> Images:
    """Raises values to a power: over 1 darkens."""
    # From the least normal number on: the logarithm of 0 is not a number, and 0 stays 0 to float32's precision.
    value = jnp.maximum(x.astype(jnp.float32), 1e-30)
    return jnp.exp(_each(exponent) * jnp.log(value)).astype(x.dtype)
