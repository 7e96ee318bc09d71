"""Means in which some values count more than others, or not at all."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean(weighted: Float[Array, "*s"], weights: Float[Array, "*s"]) -> Float[Array, ""]:
    """Sum of values times their weights, divided by the sum of weights; 0, and so its gradient, where nothing counts.

    Args:
      weighted: values, times their weights.
      weights: not below 0.
    """
    total = weights.sum()
    return jnp.where(total > 0, weighted.sum() / jnp.where(total > 0, total, 1.0), 0.0)
