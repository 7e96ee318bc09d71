"""The loss of DeepCluster v2 and SeLa v2: views are classified into the cluster of their image."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cluster_cross_entropy(
    z: Float[Array, "b v d"],
    prototypes: Float[Array, "h k d"],
    assignments: Int[Array, "b h"],
    *,
    temperature: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over heads h, and views of the images that have a cluster, of -log softmax(z C_h / tau) at the cluster.

    Caron et al. 2020 (SwAV), appendix D: DeepCluster v2 compares embeddings with centroids where DeepCluster trained a
    layer. The prototypes get no gradient. Float32 throughout.

    Args:
      z: embeddings of all views, of any length but zero.
      prototypes: of each head, of length one.
      assignments: the cluster of each image in each head; -1 leaves the image out.
      temperature: tau, > 0.

    Returns:
      The loss (0 where no image has a cluster) and, without gradient, `loss_at_chance` (log k), `cluster_accuracy`
      (share of views that are nearest to their cluster) and `assigned` (share of images with a cluster).
    """
    z = z.astype(jnp.float32)
    z = z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
    prototypes = lax.stop_gradient(prototypes.astype(jnp.float32))
    views = z.shape[1]
    losses, hits = [], []
    for head, own in zip(prototypes, assignments.T):
        # On GPUs and TPUs the default precision of a float32 product is lower than float32.
        logits = jnp.matmul(z, head.T, precision=lax.Precision.HIGHEST) / temperature
        there = (own >= 0).astype(jnp.float32)[:, None]
        count = jnp.maximum(there.sum() * views, 1.0)
        mine = jnp.sum(z * head[jnp.maximum(own, 0)][:, None], axis=-1) / temperature
        losses.append(jnp.sum((jax.nn.logsumexp(logits, axis=-1) - mine) * there) / count)
        hits.append(jnp.sum((logits.argmax(axis=-1) == own[:, None]) * there) / count)
    return jnp.stack(losses).mean(), {
        "loss_at_chance": jnp.log(float(prototypes.shape[1])),
        "cluster_accuracy": jnp.stack(hits).mean(),
        "assigned": (assignments >= 0).mean(),
    }
