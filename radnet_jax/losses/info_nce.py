"""InfoNCE: an embedding finds its key among others, that are the same for the whole batch or the keys of the batch."""

from __future__ import annotations

from jax import lax, nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    negatives: Float[Array, "k d"],
    *,
    temperature: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the batch of -log(e^(q.k+ / t) / (e^(q.k+ / t) + sum over the negatives of e^(q.k / t))).

    He et al. 2020 (MoCo), equation 1, from van den Oord et al. 2018, equation 4. With a memory bank's rows for keys and
    negatives it is the non-parametric softmax of Wu et al. 2018 (equation 2) over the rows that were drawn. At chance
    it is log(1 + k). Float32 throughout.

    Args:
      queries: of any length but zero.
      keys: the positive of each query, likewise.
      negatives: shared by all queries, likewise.
      temperature: softmax scale, > 0.

    Returns:
      The loss and, without gradient, `contrastive_accuracy` (share of queries that are nearest to their key) and
      `loss_at_chance`.
    """
    q, k, others = (_unit(x) for x in (queries, keys, negatives))
    positive = jnp.sum(q * k, axis=-1) / temperature
    negative = _product(q, others.T) / temperature
    loss = jnp.mean(jnp.logaddexp(positive, nn.logsumexp(negative, axis=-1)) - positive)
    return loss, {
        "contrastive_accuracy": _share(positive > negative.max(axis=-1)),
        "loss_at_chance": jnp.log(1.0 + len(others)),
    }


def in_batch_nce(
    queries: Float[Array, "b d"], keys: Float[Array, "b d"], *, temperature: float
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """InfoNCE with the keys of the other examples of the batch as negatives, times 2 t.

    Chen, Xie & He 2021 (MoCo v3), algorithm 1: the factor keeps the size of the gradient where the temperature changes.
    At chance it is 2 t log(b). Args and returns as of `info_nce`, key i being the positive of query i.
    """
    q, k = _unit(queries), _unit(keys)
    similarity = _product(q, k.T) / temperature
    positive = jnp.sum(q * k, axis=-1) / temperature
    loss = 2 * temperature * jnp.mean(nn.logsumexp(similarity, axis=-1) - positive)
    own = jnp.arange(len(q))[:, None] == jnp.arange(len(k))
    nearest = jnp.where(own, -jnp.inf, similarity).max(axis=-1)
    return loss, {
        "contrastive_accuracy": _share(positive > nearest),
        "loss_at_chance": 2 * temperature * jnp.log(float(len(k))),
    }


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def _share(hits: Array) -> Float[Array, ""]:
    return lax.stop_gradient(hits).astype(jnp.float32).mean()


def _product(x: Float[Array, "n k"], y: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
