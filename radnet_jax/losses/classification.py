"""Cross entropies of single-label and multi-label classification; every mean carries its masks. Float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def softmax_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Num[Array, "b k"],
    *,
    label_mask: Num[Array, "b k"] | None = None,
    valid: Num[Array, " b"] | None = None,
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Cross entropy of the softmax, averaged over the examples that count.

    Args:
      logits: any float dtype.
      labels: one row sums to 1 (one-hot, or a mixture).
      label_mask: 1 where a label is known. A distribution over classes is known as a whole: a row counts where all of
        its entries are 1.
      valid: 1 for examples, 0 for padding.
      label_smoothing: share of the label that is spread evenly over the k classes.
      class_weights: weight of each class; the mean is divided by the sum of the labels' weights, as torch's
        `cross_entropy` does.

    Returns:
      The loss; 0 where no example counts.
    """
    k = logits.shape[-1]
    labels = labels.astype(jnp.float32)
    weights = jnp.ones((k,)) if class_weights is None else jnp.asarray(class_weights, jnp.float32)
    counts = _counts(labels, label_mask, valid).min(axis=-1)
    target = (1 - label_smoothing) * labels + label_smoothing / k
    loss = -jnp.sum(weights * target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
    return _mean(loss * counts, counts * jnp.sum(weights * labels, axis=-1))


def sigmoid_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Num[Array, "b k"],
    *,
    label_mask: Num[Array, "b k"] | None = None,
    valid: Num[Array, " b"] | None = None,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Binary cross entropy of each finding, averaged over the known labels.

    Args:
      logits: any float dtype.
      labels: 0 or 1 for each finding; the value under a mask of 0 has no effect.
      label_mask: 1 where a label is known, 0 where it is uncertain or absent.
      valid: 1 for examples, 0 for padding.
      class_weights: weight of each finding in the mean.

    Returns:
      The loss; 0 where no label counts.
    """
    counts = _counts(labels, label_mask, valid)
    if class_weights is not None:
        counts = counts * jnp.asarray(class_weights, jnp.float32)
    x = logits.astype(jnp.float32)
    y = jnp.where(counts > 0, labels, 0).astype(jnp.float32)
    loss = jax.nn.softplus(x) - x * y  # -y log s(x) - (1 - y) log(1 - s(x)), without overflow
    return _mean(loss * counts, counts)


def _counts(
    labels: Num[Array, "b k"], label_mask: Num[Array, "b k"] | None, valid: Num[Array, " b"] | None
) -> Float[Array, "b k"]:
    counts = jnp.ones(labels.shape, jnp.float32) if label_mask is None else label_mask.astype(jnp.float32)
    return counts if valid is None else counts * valid.astype(jnp.float32)[:, None]


def _mean(weighted: Float[Array, "*s"], weights: Float[Array, "*s"]) -> Float[Array, ""]:
    total = weights.sum()
    return jnp.where(total > 0, weighted.sum() / jnp.where(total > 0, total, 1.0), 0.0)
