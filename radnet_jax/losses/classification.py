"""Cross entropies of single-label and multi-label classification; every mean carries its masks. Float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num
import numpy as np

from radnet_jax.losses import weighted


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
    return weighted.mean(loss * counts, counts * jnp.sum(weights * labels, axis=-1))


def sigmoid_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Num[Array, "b k"],
    *,
    label_mask: Num[Array, "b k"] | None = None,
    valid: Num[Array, " b"] | None = None,
    class_weights: Float[Array, " k"] | None = None,
    outcome_weights: Float[Array, "2 k"] | None = None,
) -> Float[Array, ""]:
    """Binary cross entropy of each finding, averaged over the known labels.

    Args:
      logits: any float dtype.
      labels: 0 or 1 for each finding, or between; the value under a mask of 0 has no effect.
      label_mask: 1 where a label is known, 0 where it is uncertain or absent.
      valid: 1 for examples, 0 for padding.
      class_weights: weight of each finding in the mean.
      outcome_weights: weights of a label 0 and of a label 1 of each finding; one between has what lies between.

    Returns:
      The loss; 0 where no label counts.
    """
    counts = _counts(labels, label_mask, valid)
    if class_weights is not None:
        counts = counts * jnp.asarray(class_weights, jnp.float32)
    x = logits.astype(jnp.float32)
    y = jnp.where(counts > 0, labels, 0).astype(jnp.float32)
    if outcome_weights is not None:
        absent, present = jnp.asarray(outcome_weights, jnp.float32)
        counts = counts * (absent + y * (present - absent))
    loss = jax.nn.softplus(x) - x * y  # -y log s(x) - (1 - y) log(1 - s(x)), without overflow
    return weighted.mean(loss * counts, counts)


def balanced_weights(counts: Num[np.ndarray, " k"]) -> tuple[float, ...]:
    """Weights of classes that make each count alike: total / (k * count), as scikit-learn's "balanced".

    Args:
      counts: labelled training examples of each class, above 0.
    """
    counts = np.asarray(counts, np.float64)
    return tuple((counts.sum() / (len(counts) * counts)).tolist())


def log_priors(counts: Num[np.ndarray, " k"]) -> tuple[float, ...]:
    """Logarithms of the shares of the classes (Menon et al. 2021, "Long-tail learning via logit adjustment").

    Args:
      counts: labelled training examples of each class, above 0.
    """
    counts = np.asarray(counts, np.float64)
    return tuple(np.log(counts / counts.sum()).tolist())


def log_odds(positive: Num[np.ndarray, " k"], known: Num[np.ndarray, " k"]) -> tuple[float, ...]:
    """Logarithms of the odds of each finding: what `log_priors` is where each finding is a task of two classes.

    Args:
      positive: training examples with the finding, above 0.
      known: training examples of which it is known, above `positive`.
    """
    positive, known = np.asarray(positive, np.float64), np.asarray(known, np.float64)
    return tuple(np.log(positive / (known - positive)).tolist())


def mean_of_views(logits: Float[Array, "b v k"], *, multi_label: bool) -> Float[Array, "b k"]:
    """Returns the logits whose probabilities are the mean of the views' probabilities: softmax, or sigmoid by finding.

    Float32, and finite for any finite logits: log(mean p) and log(mean (1 - p)) are taken by log-sum-exp.
    """
    x = logits.astype(jnp.float32)
    if multi_label:
        return _log_mean(jax.nn.log_sigmoid(x)) - _log_mean(jax.nn.log_sigmoid(-x))
    return _log_mean(jax.nn.log_softmax(x))


def _log_mean(log_p: Float[Array, "b v k"]) -> Float[Array, "b k"]:
    return jax.nn.logsumexp(log_p, axis=1) - jnp.log(log_p.shape[1])


def _counts(
    labels: Num[Array, "b k"], label_mask: Num[Array, "b k"] | None, valid: Num[Array, " b"] | None
) -> Float[Array, "b k"]:
    counts = jnp.ones(labels.shape, jnp.float32) if label_mask is None else label_mask.astype(jnp.float32)
    return counts if valid is None else counts * valid.astype(jnp.float32)[:, None]
