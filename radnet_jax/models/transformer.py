"""The parts that transformers share: attention, its block with a normalisation in front, the MLP."""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# As a mean of squares less a square of means, the variance of tokens with a few large channels loses its digits.
layer_norm = functools.partial(nn.LayerNorm, use_fast_variance=False)


def attention(
    q: Float[Array, "*b n h d"],
    k: Float[Array, "*b m h d"],
    v: Float[Array, "*b m h d"],
    bias: Array | None = None,
) -> Float[Array, "*b n h d"]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), with a float32 softmax.

    Args:
      q: queries by token and head.
      k: keys.
      v: values.
      bias: added to the logits [*b h n m], or to all of them [h n m].
    """
    logits = jnp.einsum("...nhd,...mhd->...hnm", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)
    return jnp.einsum("...hnm,...mhd->...nhd", weights.astype(v.dtype), v)


def qkv_xavier(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "d e"]:
    """Xavier's uniform values for queries, keys and values in one matrix, as if they were three."""
    limit = math.sqrt(6 / (shape[0] + shape[1] // 3))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class Mlp(nn.Module):
    """Linear, GELU (exact), linear, back to the input's width."""

    hidden: int
    kernel_init: Callable[..., Any]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        y = nn.gelu(dense(self.hidden, name="linear1")(x), approximate=False)
        return dense(x.shape[-1], name="linear2")(y)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2020, equations 2 and 3).

    Attributes:
      heads: of the attention; divides the width of the tokens.
      mlp_ratio: width of the MLP's hidden layer as a multiple of the tokens'.
      dtype: compute dtype.
    """

    heads: int
    mlp_ratio: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        width = x.shape[-1]
        norm = functools.partial(layer_norm, epsilon=1e-6, dtype=self.dtype)
        y = norm(name="norm1")(x)
        y = nn.Dense(3 * width, kernel_init=qkv_xavier, dtype=self.dtype, name="qkv")(y)
        y = y.reshape(*y.shape[:-1], 3, self.heads, width // self.heads)
        y = attention(y[..., 0, :, :], y[..., 1, :, :], y[..., 2, :, :]).reshape(x.shape)
        xavier = nn.initializers.xavier_uniform()
        x = x + nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="out")(y)
        y = norm(name="norm2")(x)
        return x + Mlp(self.mlp_ratio * width, xavier, self.dtype, name="mlp")(y)
