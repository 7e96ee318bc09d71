"""Losses of masks; unknown pixels and padding count in no mean and no sum. Float32.

Logits are of classes that exclude each other: with a softmax one for each value of the mask, with sigmoids one for each
but the background (0). `SOFTMAX` and `SIGMOID` name the two, and a target of 255 is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from radnet_jax.losses import weighted
from radnet_jax.preprocessing import UNKNOWN_MASK

SOFTMAX, SIGMOID = "softmax", "sigmoid"


def cross_entropy(
    logits: Float[Array, "b h w k"],
    target: Int[Array, "b h w"],
    *,
    valid: Num[Array, " b"] | None = None,
    class_weights: Sequence[float] = (),
) -> Float[Array, ""]:
    """Cross entropy of the softmax, averaged over known pixels.

    Args:
      logits: any float dtype, one for each value of the mask.
      target: values of the mask, 0 to k - 1, or 255.
      valid: 1 for examples, 0 for padding.
      class_weights: weight of each value; the mean is then divided by the sum of the pixels' weights, as torch's
        `cross_entropy` does.

    Returns:
      The loss; 0 where no pixel counts.
    """
    counts, classes = _known(target, valid)
    if class_weights:
        counts = counts * jnp.asarray(class_weights, jnp.float32)[classes]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return _mean(-_pick(log_p, classes), counts)


def binary_cross_entropy(
    logits: Float[Array, "b h w k"],
    target: Int[Array, "b h w"],
    *,
    valid: Num[Array, " b"] | None = None,
    class_weights: Sequence[float] = (),
) -> Float[Array, ""]:
    """Binary cross entropy of each class but the background, averaged over known pixels and classes.

    Args as of `cross_entropy`; there are k + 1 values of the mask, and `class_weights` are of the k classes.
    """
    counts, _ = _known(target, valid)
    x, y = logits.astype(jnp.float32), _shares(target, logits.shape[-1], SIGMOID)
    weights = jnp.ones(x.shape[-1]) if not class_weights else jnp.asarray(class_weights, jnp.float32)
    return _mean(jax.nn.softplus(x) - x * y, counts[..., None] * weights)


def focal(
    logits: Float[Array, "b h w k"],
    target: Int[Array, "b h w"],
    *,
    valid: Num[Array, " b"] | None = None,
    class_weights: Sequence[float] = (),
    gamma: float = 2.0,
    activation: str = SOFTMAX,
) -> Float[Array, ""]:
    """Focal loss (Lin et al. 2017, equation 5): -w_t (1 - p_t)^gamma log p_t, averaged over known pixels.

    Args as of `cross_entropy`, whose mean is divided by the sum of weights; this one is divided by the pixels.
      gamma: 0 or more; 0 is cross entropy.
      activation: "softmax", or "sigmoid": then averaged over classes too, with p_t of each class against its rest.
    """
    counts, classes = _known(target, valid)
    x = logits.astype(jnp.float32)
    weights = jnp.asarray(class_weights, jnp.float32) if class_weights else jnp.ones(x.shape[-1])
    if activation == SOFTMAX:
        log_p = _pick(jax.nn.log_softmax(x, axis=-1), classes)
        return _mean(-weights[classes] * _hard(log_p, gamma) * log_p, counts)
    sign = 2 * _shares(target, x.shape[-1], SIGMOID) - 1
    log_p = jax.nn.log_sigmoid(sign * x)
    return _mean(-weights * _hard(log_p, gamma) * log_p, jnp.broadcast_to(counts[..., None], x.shape))


def soft_dice(
    logits: Float[Array, "b h w k"],
    target: Int[Array, "b h w"],
    *,
    valid: Num[Array, " b"] | None = None,
    activation: str = SOFTMAX,
    per_image: bool = False,
    background: bool = False,
    smooth: float = 1.0,
) -> Float[Array, ""]:
    """1 - (2 sum p t + s) / (sum p + sum t + s), averaged over classes (Milletari et al. 2016, without the squares).

    Args as of `cross_entropy`.
      activation: "softmax" or "sigmoid", of the probabilities p.
      per_image: sums over each image, then the mean over images, in which an empty class counts, and an image without
        a known pixel doesn't; else sums over the whole batch, in which large masks and the size of the batch count.
      background: with a softmax, whether the background is one of the classes.
      smooth: s > 0; with 1 the loss of a class that is absent and not predicted is 0.
    """
    counts, _ = _known(target, valid)
    x = logits.astype(jnp.float32)
    p = jax.nn.softmax(x, axis=-1) if activation == SOFTMAX else jax.nn.sigmoid(x)
    t = _shares(target, x.shape[-1], activation)
    if activation == SOFTMAX and not background:
        p, t = p[..., 1:], t[..., 1:]
    p, t = p * counts[..., None], t * counts[..., None]
    axes = (1, 2) if per_image else (0, 1, 2)
    overlap, both = jnp.sum(p * t, axes), jnp.sum(p, axes) + jnp.sum(t, axes)
    loss = jnp.mean(1 - (2 * overlap + smooth) / (both + smooth), axis=-1)
    if not per_image:
        return loss
    return _mean(loss, (counts.max(axis=(1, 2)) > 0).astype(jnp.float32))


def _known(target: Array, valid: Array | None) -> tuple[Float[Array, "b h w"], Int[Array, "b h w"]]:
    """Returns 1 for the pixels that count, and the target without the unknown ones."""
    known = target != UNKNOWN_MASK
    counts = known.astype(jnp.float32)
    if valid is not None:
        counts = counts * valid.astype(jnp.float32)[:, None, None]
    return counts, jnp.where(known, target, 0).astype(jnp.int32)


def _shares(target: Array, k: int, activation: str) -> Float[Array, "b h w k"]:
    """The target as one-hot rows; an unknown pixel is of no class."""
    first = 0 if activation == SOFTMAX else 1
    return (target[..., None] == jnp.arange(first, first + k)).astype(jnp.float32)


def _pick(values: Float[Array, "b h w k"], classes: Int[Array, "b h w"]) -> Float[Array, "b h w"]:
    # As a sum over classes: a gather's gradient is a scatter.
    return jnp.sum(jnp.where(classes[..., None] == jnp.arange(values.shape[-1]), values, 0.0), axis=-1)


def _hard(log_p: Array, gamma: float) -> Array:
    """(1 - p)^gamma, whose derivative is finite at p = 1 for gamma below 1 too."""
    return jnp.maximum(-jnp.expm1(log_p), 1e-7) ** gamma if gamma else jnp.ones_like(log_p)


def _mean(values: Float[Array, "*s"], weights: Float[Array, "*s"]) -> Float[Array, ""]:
    weights = jnp.broadcast_to(weights, values.shape)
    return weighted.mean(values * weights, weights)
