"""The masked autoencoder's loss: normalised pixels of the patches that the encoder did not see."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

_EPSILON = 1e-6  # added to the variance of a patch


def patchify(image: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n p"]:
    """Returns the pixels of each patch, row by row: n = (h / patch) (w / patch), p = patch x patch x c."""
    b, h, w, c = image.shape
    x = image.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, (h // patch) * (w // patch), patch * patch * c)


def masked_pixels(
    predictions: Float[Array, "b n p"], patches: Float[Array, "b n p"], masked: Num[Array, "b n"]
) -> Float[Array, ""]:
    """Mean squared error of the normalised pixels, mean over the masked patches; float32.

    He et al. 2021, section 3, "Reconstruction target": each patch is normalised by its own mean and standard deviation
    (of p - 1, as in the authors' code). Predictions of zeros have a loss of (p - 1) / p, but that patches of one value,
    such as air beside a body, are all zeros.

    Args:
      predictions: of all patches.
      patches: their pixels.
      masked: 1 for a patch that the encoder did not see.
    """
    x = patches.astype(jnp.float32)
    x = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.sum(x * x, axis=-1, keepdims=True) / max(x.shape[-1] - 1, 1)
    target = x / jnp.sqrt(variance + _EPSILON)
    errors = jnp.mean((predictions.astype(jnp.float32) - target) ** 2, axis=-1)
    masked = masked.astype(jnp.float32)
    return jnp.sum(errors * masked) / jnp.sum(masked)
