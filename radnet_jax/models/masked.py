"""The decoder of a masked autoencoder: from the tokens of the visible patches to the pixels of all of them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from radnet_jax.models import positions
from radnet_jax.models.transformer import Block, layer_norm


@jax.custom_vjp
def permuted(x: Float[Array, "b n d"], order: Int[Array, "b n"], inverse: Int[Array, "b n"]) -> Float[Array, "b n d"]:
    """Returns the rows of each example in an order of its own; the gradient is the other way round.

    That of `take_along_axis` would be added up row by row, as if a row could be taken twice.
    """
    del inverse
    return jnp.take_along_axis(x, order[:, :, None], axis=1)


permuted.defvjp(
    lambda x, order, inverse: (permuted(x, order, inverse), inverse),
    lambda inverse, gradient: (jnp.take_along_axis(gradient, inverse[:, :, None], axis=1), None, None),
)


class MaskedDecoder(nn.Module):
    """A narrow transformer over the encoder's tokens and a learned token for each masked patch (He et al. 2021).

    Positions are the fixed sines and cosines; the class token has zeros.

    Attributes:
      width: of its tokens; a multiple of 4 and of `heads`.
      depth: layers.
      heads: of the attention.
      dtype: compute dtype; the predictions are float32.
    """

    width: int
    depth: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, encoded: Float[Array, "b m e"], restore: Int[Array, "b n"], grid: tuple[int, int], values: int
    ) -> Float[Array, "b n p"]:
        """Returns the pixels of all patches, row by row, float32.

        Args:
          encoded: class token, then the visible patches in the order in which they were shuffled.
          restore: where each patch of the image stands among the shuffled ones, the visible before the masked.
          grid: rows and columns of patches, of which there are n.
          values: of a patch, its pixels times its channels.
        """
        xavier = nn.initializers.xavier_uniform()
        x = nn.Dense(self.width, kernel_init=xavier, dtype=self.dtype, name="embed")(encoded)
        token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(self.dtype)
        masked = jnp.broadcast_to(token, (x.shape[0], restore.shape[1] - (x.shape[1] - 1), self.width))
        patches = jnp.concatenate([x[:, 1:], masked], axis=1)
        patches = permuted(patches, restore, jnp.argsort(restore, axis=1))
        patches += jnp.asarray(positions.sincos(*grid, self.width)).astype(self.dtype)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        for i in range(1, self.depth + 1):
            x = Block(self.heads, dtype=self.dtype, name=f"block{i:02d}")(x)
        x = layer_norm(epsilon=1e-6, name="final_norm")(x[:, 1:])
        return nn.Dense(values, kernel_init=xavier, dtype=self.dtype, name="pixels")(x).astype(jnp.float32)
