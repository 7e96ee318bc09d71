"""Barlow Twins: the cross-correlation of two views' embeddings should be the identity, over the global batch."""

from __future__ import annotations

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPSILON = 1e-5  # added to the variance, as BatchNorm does


def barlow_twins(z: Float[Array, "b 2 d"], *, weight: float) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the sum over i of (1 - C_ii)^2 + weight x the sum over i != j of C_ij^2; float32.

    Zbontar et al. 2021, equations 1 and 2: C_ij is the correlation over the batch of dimension i of the first view's
    embeddings with dimension j of the second's. Each dimension is centred and scaled by a BatchNorm without scale and
    offset, C divided by the batch.

    Args:
      z: embeddings by view.
      weight: lambda of equation 1.

    Returns:
      The loss and, without gradient, its two sums `on_diagonal` and `off_diagonal` (before the weight), and
      `loss_at_chance`: that of a C of zeros, d.
    """
    if z.shape[1] != 2:
        raise ValueError(f"barlow_twins takes two views, got {z.shape[1]} (shape {z.shape})")
    z = z.astype(jnp.float32)
    z = z - z.mean(axis=0)
    z = z * lax.rsqrt(jnp.mean(z * z, axis=0) + _EPSILON)
    correlation = jnp.matmul(z[:, 0].T, z[:, 1], precision=lax.Precision.HIGHEST) / len(z)
    # Masks: the gradient of a diagonal that is taken out is a scatter, and a difference of two sums would be mere
    # rounding where the second goes to zero.
    d = len(correlation)
    on = jnp.eye(d, dtype=bool)
    on_diagonal = jnp.sum(jnp.where(on, 1 - correlation, 0.0) ** 2)
    off_diagonal = jnp.sum(jnp.where(on, 0.0, correlation) ** 2)
    terms = {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}
    metrics = {k: lax.stop_gradient(x) for k, x in terms.items()} | {"loss_at_chance": jnp.float32(d)}
    return on_diagonal + weight * off_diagonal, metrics
