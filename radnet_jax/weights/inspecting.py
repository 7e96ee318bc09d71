"""What a set of weights is like: norms by layer, and whether BatchNorm's statistics can be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from radnet_jax import trees
from radnet_jax.errors import UserError

_LARGE_VARIANCE = 1e4  # RadImageNet's reach 56,296: inputs were not scaled as the contract says


def norms(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the Euclidean norm of each kernel by layer, of all of them, and their root mean square.

    Args:
      arrays: names as in a checkpoint, ".../kernel" for kernels.
    """
    layers = {
        name.removesuffix("/kernel").partition("params/")[2]: float(np.linalg.norm(array))
        for name, array in arrays.items()
        if name.endswith("/kernel")
    }
    count = sum(array.size for name, array in arrays.items() if name.endswith("/kernel"))
    total = float(np.sqrt(sum(n**2 for n in layers.values())))
    return {"total": total, "root_mean_square": total / max(count, 1) ** 0.5, "layers": layers}


def check_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Refuses weights that hold NaN or infinity."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{what} holds values that are not finite", got=trees.shown(bad), fix="download it again")


def batch_statistics(arrays: Mapping[str, np.ndarray], batches: int | None, what: str) -> dict[str, Any]:
    """Returns the range of BatchNorm's statistics and what is odd about them; {} for a network without BatchNorm.

    Args:
      arrays: names as in a checkpoint, "batch_stats/.../mean" and ".../var".
      batches: the file's counter of batches, where it has one.
      what: the file, for messages.

    Raises:
      UserError: a negative variance.
    """
    means = {k: v for k, v in arrays.items() if k.startswith("batch_stats/") and k.endswith("/mean")}
    variances = {k: v for k, v in arrays.items() if k.startswith("batch_stats/") and k.endswith("/var")}
    if not variances:
        return {}
    negative = [k for k, v in variances.items() if (v < 0).any()]
    if negative:
        raise UserError(f"{what} holds negative variances", got=trees.shown(negative), fix="download it again")
    odd = []
    if not any(v.any() for v in means.values()) and all((v == 1).all() for v in variances.values()):
        odd.append("mean 0 and variance 1 throughout, as before any training")
    dead = sum(int((v == 0).sum()) for v in variances.values())
    if dead:
        odd.append(f"{dead} channel(s) of variance 0: they are dead")
    largest = max(float(v.max()) for v in variances.values())
    if largest > _LARGE_VARIANCE:
        odd.append(f"a variance of {largest:.0f}: was the network trained on inputs of this contract?")
    if batches == 0:
        odd.append("the counters say that no batch was seen")
    return {
        "layers": len(variances),
        "batches": batches,
        "mean": [min(float(v.min()) for v in means.values()), max(float(v.max()) for v in means.values())],
        "var": [min(float(v.min()) for v in variances.values()), largest],
        "odd": odd,
    }
