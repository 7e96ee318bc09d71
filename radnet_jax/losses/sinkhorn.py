"""Sinkhorn-Knopp: soft assignments of examples to prototypes under which all prototypes are used alike."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def sinkhorn(
    scores: Float[Array, "b k"], *, epsilon: float, iterations: int, valid: Bool[Array, " b"] | None = None
) -> Float[Array, "b k"]:
    """Returns the assignments Q: rows of sum one, columns of nearly the same sum b / k.

    Caron et al. 2020 (SwAV), equations 3 to 5: Q = exp(scores / epsilon), divided by its sum; then in each iteration
    each prototype's entries are scaled to the sum 1 / k and each example's to 1 / b; at the end Q is multiplied by b.

    It is done on logarithms, so that nothing overflows at a small epsilon (at .05 the cosine 1 is exp(20), beyond
    float16), and without the first sum and the constants 1 / k and 1 / b, which the scaling that comes next undoes.

    Args:
      scores: similarities of the global batch to the prototypes.
      epsilon: weight of the entropy, > 0; the smaller, the harder the assignments.
      iterations: at least 1.
      valid: which examples are there; the rows of others have no part in it, and are 0.
    """
    log_q = scores.astype(jnp.float32) / epsilon
    there = None if valid is None else valid[:, None]

    def scaled(_: Array, log_q: Array) -> Array:
        log_q -= jax.nn.logsumexp(log_q, axis=0, keepdims=True, where=there)
        return log_q - jax.nn.logsumexp(log_q, axis=1, keepdims=True)

    q = jnp.exp(lax.fori_loop(0, iterations, scaled, log_q))
    return q if there is None else jnp.where(there, q, 0.0)
