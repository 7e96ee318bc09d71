"""VICReg: invariance, variance and covariance of two views' embeddings, over the global batch."""

from __future__ import annotations

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


def vicreg(
    z: Float[Array, "b 2 d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    epsilon: float = 1e-4,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns invariance x s + variance x v + covariance x c; float32.

    Bardes, Ponce and LeCun 2022, equation 6, with the scales of the authors' code:
      s: squared difference of the two views, mean over examples and dimensions (equation 5 sums over dimensions).
      v: max(0, gamma - sqrt(Var(z_j) + epsilon)), mean over dimensions (equations 1 and 2) and over the two views
        (equation 6 sums over them).
      c: sum over i != j of C_ij^2, divided by d, summed over the two views (equations 3 and 4).
    Variances and covariances are divided by b - 1.

    Args:
      z: embeddings by view.
      invariance: lambda of equation 6.
      variance: mu.
      covariance: nu.
      gamma: standard deviation that is wanted.
      epsilon: of the square root.

    Returns:
      The loss, and without gradient the three terms before their weights.
    """
    if z.shape[1] != 2:
        raise ValueError(f"vicreg takes two views, got {z.shape[1]} (shape {z.shape})")
    z = z.astype(jnp.float32)
    d, others = z.shape[-1], max(len(z) - 1, 1)
    same = jnp.mean((z[:, 0] - z[:, 1]) ** 2)
    z = z - z.mean(axis=0)
    spread = jnp.sqrt(jnp.sum(z * z, axis=0) / others + epsilon)
    low = jnp.mean(jnp.maximum(0.0, gamma - spread))
    shared = jnp.zeros(())
    for v in (0, 1):
        c = jnp.matmul(z[:, v].T, z[:, v], precision=lax.Precision.HIGHEST) / others
        shared += jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0.0, c) ** 2) / d
    terms = {"invariance": same, "variance": low, "covariance": shared}
    metrics = {f"{k}_term": lax.stop_gradient(x) for k, x in terms.items()}
    return invariance * same + variance * low + covariance * shared, metrics
