"""One convolution, in the formulation that is fastest where it runs; given to `nn.Conv(conv_general_dilated=...)`.

The sums are the same in each formulation, and so is the parameter tree. XLA's CPU convolution collapses on small maps
(2x2 maps, 512 channels, gradient: 3 GFLOP/s against 168 as matrix products), is slow for 1x1 kernels, and its gradient
by the kernel transposes both operands inside loops that compute them anew, element by element. So on CPU the gradients
are written here. `benchmarks/conv.py` measures it. On GPUs and TPUs the library's convolution is used.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

# Largest output map, in pixels, that is cheaper as patches times matrix: of few channels, and of WIDE and more. With
# few channels the copies cost more than they save.
PATCHES_UP_TO = 16
WIDE_PATCHES_UP_TO = 64
WIDE = 256

# Fewest input channels for which the kernel's gradient of a "library" convolution is a product for each tap.
TAPS_FROM = 16

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j c k"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "b p q k"]:
    """`lax.conv_general_dilated` of Linen's layout (NHWC, HWIO), formulated for the platform and the shape.

    The platform is JAX's default backend when the function is traced. On CPU there is no forward-mode derivative.
    """
    undilated = all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if undilated and lhs.ndim == 4 and jax.default_backend() == "cpu":
        strides = (int(window_strides[0]), int(window_strides[1]))
        pads = _explicit(lhs.shape[1:3], rhs.shape[:2], strides, padding)
        form = formulation(lhs.shape, rhs.shape, strides, pads, feature_group_count)
        if form == "depthwise":
            return _depthwise(lhs, rhs, strides, pads)
        if form != "grouped":
            return _conv(lhs, rhs, strides, pads, form, precision)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def formulation(lhs: Sequence[int], rhs: Sequence[int], strides: Strides, pads: Pads, groups: int = 1) -> str:
    """Returns the formulation for the CPU by shape.

    "product" (1x1), "patches" (small maps) or "library", whose gradient by the kernel is ours; of several groups
    "depthwise" (one channel each) or "grouped", which is left to the library.
    """
    if groups > 1:
        return "depthwise" if groups == lhs[3] == rhs[3] else "grouped"
    if tuple(rhs[:2]) == (1, 1) and pads == ((0, 0), (0, 0)):
        return "product"
    height, width = (
        (size + sum(pad) - kernel) // stride + 1 for size, pad, kernel, stride in zip(lhs[1:3], pads, rhs[:2], strides)
    )
    limit = WIDE_PATCHES_UP_TO if rhs[2] >= WIDE else PATCHES_UP_TO
    return "patches" if height * width <= limit else "library"


def _explicit(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> Pads:
    pairs = lax.padtype_to_pads(size, kernel, strides, padding) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = pairs
    return (int(top), int(bottom)), (int(left), int(right))


def _primal(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "i j c k"],
    strides: Strides,
    pads: Pads,
    form: str,
    precision: Any,
) -> Float[Array, "b p q k"]:
    if form == "library":
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT, precision=precision)
    columns = _columns(x, kernel.shape, strides, pads)
    # The batch stays a dimension of its own: folded into rows, the output would lose its sharding.
    return lax.dot_general(columns, kernel.reshape(-1, kernel.shape[3]), (((3,), (0,)), ((), ())), precision=precision)


_conv = jax.custom_vjp(_primal, nondiff_argnums=(2, 3, 4, 5))


def _conv_forward(x: Array, kernel: Array, *static: Any) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, *static), (x, kernel)


def _conv_backward(
    strides: Strides, pads: Pads, form: str, precision: Any, saved: tuple[Array, Array], dy: Float[Array, "b p q k"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "i j c k"]]:
    x, kernel = saved

    (dx,) = jax.vjp(lambda x: _primal(x, kernel, strides, pads, form, precision), x)[1](dy)
    if form != "library":
        return dx, _product_of_rows(_columns(x, kernel.shape, strides, pads), dy, precision).reshape(kernel.shape)
    if kernel.shape[2] < TAPS_FROM:
        (dk,) = jax.vjp(lambda k: _primal(x, k, strides, pads, form, precision), kernel)[1](dy)
        return dx, dk
    return dx, _each_tap(x, kernel.shape, strides, pads, lambda tap: _product_of_rows(tap, dy, precision))


_conv.defvjp(_conv_forward, _conv_backward)


def _columns(
    x: Float[Array, "b h w c"], kernel: Sequence[int], strides: Strides, pads: Pads
) -> Float[Array, "b p q n"]:
    """Returns the pixels under the kernel for each output pixel: n = rows * columns * channels, tap by tap."""
    if tuple(kernel[:2]) == (1, 1) and pads == ((0, 0), (0, 0)):
        return x[:, :: strides[0], :: strides[1]]
    return jnp.concatenate(_taps(x, kernel, strides, pads), axis=-1)


def _taps(x: Float[Array, "b h w c"], kernel: Sequence[int], strides: Strides, pads: Pads) -> list[Array]:
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    high, wide = _extent(x.shape, kernel, strides)
    return [
        x[:, i : i + high : strides[0], j : j + wide : strides[1]] for i in range(kernel[0]) for j in range(kernel[1])
    ]


def _extent(padded: Sequence[int], kernel: Sequence[int], strides: Strides) -> tuple[int, int]:
    """Rows and columns of the padded input that one tap sees, from its first to its last."""
    high, wide = ((padded[i + 1] - kernel[i]) // strides[i] * strides[i] + 1 for i in (0, 1))
    return high, wide


def _each_tap(x: Float[Array, "b h w c"], kernel: Sequence[int], strides: Strides, pads: Pads, function: Any) -> Array:
    """Returns the function of each tap, as [i j ...].

    In a loop: outside of one, XLA computes what `x` and the cotangent are made of anew for each tap.
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    high, wide = _extent(x.shape, kernel, strides)

    def one(index: Array) -> Array:
        start = (0, index // kernel[1], index % kernel[1], 0)
        tap = lax.dynamic_slice(x, start, (x.shape[0], high, wide, x.shape[3]))
        return function(tap[:, :: strides[0], :: strides[1]])

    out = lax.map(one, jnp.arange(kernel[0] * kernel[1]))
    return out.reshape(*kernel[:2], *out.shape[1:])


def _product_of_rows(x: Float[Array, "b p q n"], dy: Float[Array, "b p q k"], precision: Any) -> Float[Array, "n k"]:
    # With one contracted dimension, XLA copies neither operand; with three it transposes one, pixel by pixel.
    rows, outputs = x.reshape(-1, x.shape[3]), dy.reshape(-1, dy.shape[3])
    return lax.dot_general(rows, outputs, (((0,), (0,)), ((), ())), precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "i j 1 c"], strides: Strides, pads: Pads
) -> Float[Array, "b p q c"]:
    """A kernel for each channel, as a sum of shifted maps."""
    taps = _taps(x, kernel.shape, strides, pads)
    return functools.reduce(jnp.add, (t * k for t, k in zip(taps, kernel.reshape(-1, x.shape[3]))))


def _depthwise_forward(x: Array, kernel: Array, *static: Any) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, *static), (x, kernel)


def _depthwise_backward(
    strides: Strides, pads: Pads, saved: tuple[Array, Array], dy: Float[Array, "b p q c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "i j 1 c"]]:
    x, kernel = saved
    # The transposed convolution: zeros between the pixels of a strided map, the kernel turned round.
    spread = lax.pad(
        dy, jnp.zeros((), dy.dtype), ((0, 0, 0), (0, 0, strides[0] - 1), (0, 0, strides[1] - 1), (0, 0, 0))
    )
    rows, columns = (
        (k - 1 - before, size + before - spread.shape[axis])
        for axis, (k, (before, _), size) in enumerate(zip(kernel.shape[:2], pads, x.shape[1:3]), start=1)
    )
    spread = lax.pad(spread, jnp.zeros((), dy.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    dx = _depthwise(spread, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))
    dk = _each_tap(x, kernel.shape, strides, pads, lambda tap: jnp.sum(tap * dy, axis=(0, 1, 2))[None])
    return dx, dk


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
