"""The swapped prediction of SwAV: the assignment of one view from the other views."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from radnet_jax.losses.sinkhorn import sinkhorn


def swapped_prediction(
    z: Float[Array, "b v d"],
    prototypes: Float[Array, "k d"],
    *,
    temperature: float,
    epsilon: float,
    iterations: int,
    queue: Float[Array, "2 l d"] | None = None,
    queue_valid: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the two global views s of the mean over all other views t of -sum_k q_s^k log softmax(z_t C / tau)^k.

    Caron et al. 2020, equations 2 and 6, with multi-crop (equation 9): local views are predicted from, and never
    assigned. q_s is `sinkhorn` of the scores of view s of the global batch, and has no gradient.

    Args:
      z: embeddings, the two global views first; any length but zero.
      prototypes: of length one.
      temperature: tau, > 0.
      epsilon: of `sinkhorn`.
      iterations: of `sinkhorn`.
      queue: embeddings of length one of earlier batches, of either global view, that are assigned along with the batch.
      queue_valid: whether the queue has a part yet.

    Returns:
      The loss and, without gradient, `loss_at_chance` (log k), `prototypes_used` (share of the prototypes that are the
      first choice of an example) and `assignment_entropy` (from 0 to log k).
    """
    z = z.astype(jnp.float32)
    z = z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
    b, views, _ = z.shape
    k = len(prototypes)
    scores = _product(z, prototypes)
    log_p = jax.nn.log_softmax(scores / temperature, axis=-1)
    losses, used, entropies = [], [], []
    for s in range(2):
        rows, valid = scores[:, s], None
        if queue is not None:
            rows = jnp.concatenate([rows, _product(queue[s], prototypes)])
            valid = jnp.concatenate([jnp.ones(b, bool), jnp.broadcast_to(jnp.asarray(queue_valid), len(queue[s]))])
        q = sinkhorn(lax.stop_gradient(rows), epsilon=epsilon, iterations=iterations, valid=valid)[:b]
        cross_entropies = -jnp.einsum("bk,bvk->bv", q, log_p, precision=lax.Precision.HIGHEST)
        losses.append((cross_entropies.sum(axis=1) - cross_entropies[:, s]).mean() / (views - 1))
        used.append((q == q.max(axis=1, keepdims=True)).any(axis=0).mean())
        entropies.append(-jax.scipy.special.xlogy(q, q).sum(axis=1).mean())
    metrics = {
        "loss_at_chance": jnp.log(float(k)),
        "prototypes_used": (used[0] + used[1]) / 2,
        "assignment_entropy": (entropies[0] + entropies[1]) / 2,
    }
    return (losses[0] + losses[1]) / 2, metrics


def _product(x: Float[Array, "... d"], prototypes: Float[Array, "k d"]) -> Float[Array, "... k"]:
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    return jnp.matmul(x, prototypes.T, precision=lax.Precision.HIGHEST)
