"""Max pooling with a gradient that is cheap on CPU and exact on GPU."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool_3x3(x: Float[Array, "b h w c"], padding: str) -> Float[Array, "b p q c"]:
    """3x3 max pooling of stride 2, as in a ResNet's stem.

    On CPU and GPU it is done one axis after the other, with a gradient of its own: that of XLA's windowed maximum took
    a third of a ResNet-18 step of width 16 on CPU (256 images of 64 px: 74 ms, this one 10 ms), and on GPU it is a
    scatter of as many sums as there are pixels, which --deterministic would have XLA make one after the other. The
    first of equal pixels (of "same" the last) takes the gradient, along each axis.

    Args:
      x: maps.
      padding: "torch" (one pixel on each side) or "same" (TensorFlow's).
    """
    if jax.default_backend() == "tpu":
        return nn.max_pool(x, (3, 3), (2, 2), padding="SAME" if padding == "same" else ((1, 1), (1, 1)))
    return _along(_along(x, 1, padding), 2, padding)


def _along(x: Float[Array, "b h w c"], axis: int, padding: str) -> Float[Array, "b p q c"]:
    if x.shape[axis] % 2:  # one pixel behind the last too, with either padding
        return _maximum_of_three(jnp.pad(x, _one(axis, (0, 1)), constant_values=-jnp.inf), axis)
    if padding == "same":  # pixels 2i, 2i + 1 and 2i + 2: the other padding, seen from the other side
        return jnp.flip(_maximum_of_three(jnp.flip(x, axis), axis), axis)
    return _maximum_of_three(x, axis)


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
    """2x2 max pooling of stride 2, of an odd side with what there is; equal pixels share the gradient. No scatter."""
    for axis in (1, 2):
        x = jnp.pad(x, _one(axis, (0, x.shape[axis] % 2)), constant_values=-jnp.inf)
        even, odd = (lax.index_in_dim(_pairs(x, axis), i, axis + 1, keepdims=False) for i in (0, 1))
        x = jnp.maximum(even, odd)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _maximum_of_three(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b p q c"]:
    return functools.reduce(jnp.maximum, _taps(x, axis))


def _taps(x: Float[Array, "b h w c"], axis: int) -> tuple[Array, Array, Array]:
    """The pixels at 2i - 1, 2i and 2i + 1 for each output pixel i; -inf in front of the first."""
    even, odd = (lax.index_in_dim(_pairs(x, axis), i, axis + 1, keepdims=False) for i in (0, 1))
    before = lax.slice_in_dim(odd, 0, odd.shape[axis] - 1, axis=axis)
    return jnp.pad(before, _one(axis, (1, 0)), constant_values=-jnp.inf), even, odd


def _pairs(x: Array, axis: int) -> Array:
    return x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])


def _one(axis: int, pad: tuple[int, int]) -> list[tuple[int, int]]:
    return [pad if i == axis else (0, 0) for i in range(4)]


def _forward(x: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    y = _maximum_of_three(x, axis)
    return y, (x, y)


def _backward(axis: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    x, y = saved
    before, even, _ = _taps(x, axis)
    first = before == y
    second = (even == y) & ~first
    from_before = jnp.where(first, dy, 0)
    from_odd = jnp.where(first | second, 0, dy)
    after = lax.slice_in_dim(from_before, 1, dy.shape[axis], axis=axis)
    odd = from_odd + jnp.pad(after, _one(axis, (0, 1)))
    return (jnp.stack([jnp.where(second, dy, 0), odd], axis=axis + 1).reshape(x.shape),)


_maximum_of_three.defvjp(_forward, _backward)
