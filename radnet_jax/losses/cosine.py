"""How well each view's prediction points at the embedding of the other view: the losses of BYOL and SimSiam."""

from __future__ import annotations

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


def swapped_cosine(predictions: Float[Array, "b 2 d"], targets: Float[Array, "b 2 d"]) -> Float[Array, ""]:
    """Mean over the examples of (cos(p_1, z_2) + cos(p_2, z_1)) / 2; float32, no gradient into the targets.

    SimSiam's loss is minus this (Chen and He 2021, equation 2). BYOL's is 4 - 4 times it: |p - z|^2 = 2 - 2 cos of unit
    vectors, summed over the two orders (Grill et al. 2020, equation 2).

    Args:
      predictions: p, of any length but zero, by view.
      targets: z, likewise.
    """
    if predictions.shape[1] != 2:
        raise ValueError(f"two views are compared, got {predictions.shape[1]} (shape {predictions.shape})")
    p, z = _unit(predictions), lax.stop_gradient(_unit(targets))
    return jnp.mean(jnp.sum(p * z[:, ::-1], axis=-1))


def _unit(x: Float[Array, "b v d"]) -> Float[Array, "b v d"]:
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
