"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR, over the global batch."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EXCLUDED = -1e9  # finite, so that a row without other negatives (n = 1) still has a gradient


def nt_xent(z: Float[Array, "n v d"], *, temperature: float) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the 2n embeddings of -log softmax of the positive among the other 2n - 1.

    Chen et al. 2020, equation 1 and algorithm 1: s_ij is the cosine similarity, loss(i, j) =
    -log(exp(s_ij / t) / sum over k != i of exp(s_ik / t)), j the other view of i. At chance it is log(2n - 1).

    The four blocks (views against views) are formed one by one: stacking the views first makes XLA exchange twice the
    memory when the batch is sharded. Float32 throughout.

    Args:
      z: embeddings of v = 2 views, any length but zero.
      temperature: softmax scale, > 0.

    Returns:
      The loss and, without gradient, `contrastive_accuracy` (share of embeddings whose positive is the nearest) and
      `alignment` (mean squared distance of the two views on the unit sphere; Wang and Isola 2020, equation 5).
    """
    if z.shape[1] != 2:
        raise ValueError(f"nt_xent takes two views, got {z.shape[1]} (shape {z.shape})")
    z = z.astype(jnp.float32)
    z = z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
    a, b = z[:, 0], z[:, 1]
    own = jnp.eye(z.shape[0], dtype=bool)
    positive = jnp.sum(a * b, axis=-1) / temperature

    def rows(x: Float[Array, "n d"], other: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        same = jnp.where(own, _EXCLUDED, _similarity(x, x) / temperature)
        cross = _similarity(x, other) / temperature
        log_sum = jnp.logaddexp(jax.nn.logsumexp(same, axis=1), jax.nn.logsumexp(cross, axis=1))
        negatives = jnp.maximum(same.max(axis=1), jnp.where(own, _EXCLUDED, cross).max(axis=1))
        return log_sum - positive, lax.stop_gradient(positive > negatives).astype(jnp.float32)

    loss_a, hit_a = rows(a, b)
    loss_b, hit_b = rows(b, a)
    metrics = {
        "contrastive_accuracy": (hit_a.mean() + hit_b.mean()) / 2,
        "alignment": lax.stop_gradient(jnp.sum((a - b) ** 2, axis=-1).mean()),
    }
    return (loss_a.mean() + loss_b.mean()) / 2, metrics


def _similarity(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    return jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
