"""One convolution, in the formulation that is fastest where it runs; given to `nn.Conv(conv_general_dilated=...)`.

The sums are the same in each formulation, and so is the parameter tree. XLA's CPU convolution collapses on small maps
(2x2 maps, 512 channels, gradient: 3 GFLOP/s against 168 as matrix products) and is slow for 1x1 kernels and for the
gradient of strided ones; `benchmarks/conv.py` measures it. On GPUs and TPUs the library's convolution is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]

# Largest output map, in pixels, that is cheaper as patches times matrix: measured for ResNet-18 of width 16 and
# ResNet-50 at 64 px. At 8x8 both are equal within a third, at 16x16 the patches lose (the copies do not fit the cache).
PATCHES_UP_TO = 16


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

    The platform is JAX's default backend when the function is traced.
    """
    form = "library"
    plain = feature_group_count == 1 and all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if plain and lhs.ndim == 4 and jax.default_backend() == "cpu":
        pads = _explicit(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
        form = formulation(lhs.shape, rhs.shape, window_strides, pads)
    if form == "product":
        return _product(lhs, rhs, window_strides, precision)
    if form == "patches":
        return _patches(lhs, rhs, window_strides, pads, precision)
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


def formulation(lhs: Sequence[int], rhs: Sequence[int], strides: Sequence[int], pads: Pads) -> str:
    """Returns the formulation for the CPU by shape: "product" (1x1), "patches" (small maps) or "library"."""
    if tuple(rhs[:2]) == (1, 1) and pads == ((0, 0), (0, 0)):
        return "product"
    height, width = (
        (size + sum(pad) - kernel) // stride + 1 for size, pad, kernel, stride in zip(lhs[1:3], pads, rhs[:2], strides)
    )
    return "patches" if height * width <= PATCHES_UP_TO else "library"


def _explicit(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> Pads:
    pairs = lax.padtype_to_pads(size, kernel, strides, padding) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = pairs
    return (int(top), int(bottom)), (int(left), int(right))


def _product(
    x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c k"], strides: Sequence[int], precision: Any
) -> Float[Array, "b p q k"]:
    return _matmul(x[:, :: strides[0], :: strides[1]], kernel[0, 0], precision)


def _patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "i j c k"], strides: Sequence[int], pads: Pads, precision: Any
) -> Float[Array, "b p q k"]:
    rows, columns, _, out = kernel.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    high = (x.shape[1] - rows) // strides[0] * strides[0] + 1
    wide = (x.shape[2] - columns) // strides[1] * strides[1] + 1
    taps = [x[:, i : i + high : strides[0], j : j + wide : strides[1]] for i in range(rows) for j in range(columns)]
    return _matmul(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, out), precision)


def _matmul(x: Float[Array, "b h w c"], matrix: Float[Array, "c k"], precision: Any) -> Float[Array, "b h w k"]:
    # The batch stays a dimension of its own: folded into rows, it would lose its sharding.
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())), precision=precision)
