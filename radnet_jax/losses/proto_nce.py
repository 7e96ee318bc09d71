"""ProtoNCE: an embedding finds the prototype of its cluster among others, each at a temperature of its own."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from radnet_jax import clustering

_SMOOTHING = 10.0  # alpha of equation 12
_LEAST = 0.01  # of the mean concentration: identical embeddings would have a temperature of 0


def concentration(
    distances: Float[Array, " n"], assignments: Int[Array, " n"], k: int, *, temperature: float
) -> Float[Array, " k"]:
    """Returns phi of each cluster, its temperature: low where embeddings lie close to their centroid.

    Li et al. 2021 (PCL), equation 12: phi = (sum of the distances to the centroid) / (n log(n + 10)), n the size of the
    cluster; clusters of one or no row get the largest phi. Then, as the authors' code has it, phi is cut off at its
    10th and 90th percentiles and scaled to the mean `temperature`.

    Args:
      distances: Euclidean, of rows to their centroids, not squared.
      assignments: of rows to clusters; -1 leaves a row out.
      k: clusters.
      temperature: mean of the result; all of it where no cluster has two different rows.
    """
    n = clustering.sizes(assignments, k)
    sums = clustering.totals(distances[:, None], assignments, k)[:, 0]
    phi = jnp.where(n > 1, sums / (jnp.maximum(n, 1.0) * jnp.log(n + _SMOOTHING)), 0.0)
    phi = jnp.where(n > 1, phi, phi.max())
    phi = jnp.clip(phi, jnp.percentile(phi, 10), jnp.percentile(phi, 90))
    mean = phi.mean()
    return temperature * jnp.where(mean > 0, jnp.maximum(phi / jnp.maximum(mean, 1e-12), _LEAST), 1.0)


def draw_negatives(
    rng: Array, assignments: Int[Array, " b"], k: int, count: int
) -> tuple[Int[Array, " r"], Bool[Array, " r"]]:
    """Draws `count` different clusters (all, if there are fewer) that no image of the batch is in.

    Returns:
      Their numbers, and which of them are to be counted: where the batch leaves fewer than `count` the rest is not.
    """
    taken = jnp.zeros(k, bool).at[jnp.where(assignments < 0, k, assignments)].set(True, mode="drop")
    order, drawn = lax.top_k(jnp.where(taken, -1.0, jax.random.uniform(rng, (k,))), min(count, k))
    return drawn, order >= 0


def proto_nce(
    q: Float[Array, "b d"],
    prototypes: Float[Array, "k d"],
    phi: Float[Array, " k"],
    assignments: Int[Array, " b"],
    negatives: Int[Array, " r"],
    counted: Bool[Array, " r"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the images with a cluster s of -log(e^(q.c_s / phi_s) / sum over j of e^(q.c_j / phi_j)).

    Li et al. 2021 (PCL), equation 11, for one clustering. j runs over the prototypes of all images of the batch, one
    for each image as in the authors' code (a cluster that two images share counts twice), and over the negatives.
    Float32 throughout.

    Args:
      q: embeddings, of any length but zero.
      prototypes: of length one.
      phi: temperatures of the prototypes, see `concentration`.
      assignments: clusters of the images; -1 leaves an image out, on either side.
      negatives: clusters, see `draw_negatives`.
      counted: which of them are there.

    Returns:
      The loss (0 where no image has a cluster) and, without gradient, `prototype_accuracy` (share of images whose
      largest term is their cluster's) and `loss_at_chance`, the log of the number of terms (0, likewise).
    """
    q = q.astype(jnp.float32)
    q = q * lax.rsqrt(jnp.maximum(jnp.sum(q * q, axis=-1, keepdims=True), 1e-24))
    prototypes, phi = lax.stop_gradient((prototypes.astype(jnp.float32), phi.astype(jnp.float32)))
    there = assignments >= 0
    own = jnp.maximum(assignments, 0)
    columns, present = jnp.concatenate([own, negatives]), jnp.concatenate([there, counted])
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    logits = jnp.matmul(q, prototypes[columns].T, precision=lax.Precision.HIGHEST) / phi[columns]
    logits = jnp.where(present, logits, -1e9)
    positive = jnp.sum(q * prototypes[own], axis=-1) / phi[own]
    count = jnp.maximum(there.sum(), 1)
    loss = jnp.sum(jnp.where(there, jax.nn.logsumexp(logits, axis=-1) - positive, 0.0)) / count
    nearest = columns[logits.argmax(axis=-1)] == own
    return loss, {
        "prototype_accuracy": jnp.sum(nearest & there) / count,
        "loss_at_chance": jnp.where(there.any(), jnp.log(jnp.maximum(present.sum(), 1).astype(jnp.float32)), 0.0),
    }
