"""The scale of weights: kernels in front of a BatchNorm brought to the norm of fresh ones, the function unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from radnet_jax.errors import UserError, nearest
from radnet_jax.models import MODELS
from radnet_jax.weights import names

TARGETS = ("none", "initial")
_PROVABLE = ("resnet", "mobilenet")  # each of their kernels (but those of squeeze and excite) stands before a BatchNorm
_SMALLEST_VARIANCE = 1e-12


def norm_of(conv: str) -> str:
    """Returns the BatchNorm behind a convolution: stage1_block1/conv2 -> stage1_block1/norm2."""
    path, _, last = conv.rpartition("/")
    return f"{path}/{last.replace('conv', 'norm')}" if path else last.replace("conv", "norm")


def rescale(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], *, to: str) -> dict[str, np.ndarray]:
    """Returns weights whose kernels have the norm that they begin with at random; the function stays the same.

    The norm that a fresh kernel has (He et al. 2015, fan out) is sqrt(2 * number of its values / fan out).

    Args:
      arrays: by name, "params/..." and "batch_stats/...".
      section: the backbone section.
      to: "initial", or "none".

    Raises:
      UserError: an unknown target, and what `multiply` refuses.
    """
    if to not in TARGETS:
        raise UserError(f"unknown config.rescale {to!r}{nearest(to, TARGETS)}", expected=" or ".join(TARGETS))
    if to == "none":
        return dict(arrays)
    return multiply(arrays, section, lambda kernel: _fresh_norm(kernel) / max(float(np.linalg.norm(kernel)), 1e-30))


def multiply(
    arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], factor_of: Callable[[np.ndarray], float]
) -> dict[str, np.ndarray]:
    """Returns weights with each kernel in front of a BatchNorm multiplied, and the function the same.

    A BatchNorm divides by the deviation of what it sees. With a kernel a * w its input is a * x, so with the statistics
    a * m and a^2 * (v + e) - e, where e is its epsilon, it returns what it did: (a x - a m) / sqrt(a^2 (v + e)). This
    is exact in eval mode. In training, where the batch's own statistics are taken, e counts a^2 times as much or as
    little against the variance as before.

    Args:
      arrays: by name, "params/..." and "batch_stats/...".
      section: the backbone section.
      factor_of: of a kernel.

    Raises:
      UserError: a backbone where this can't be shown (a LayerNorm's epsilon can't be made up for, a DenseNet's maps are
        normalised in several places); a kernel of zeros; a factor so small that a variance would have to be negative.
    """
    name = section["name"]
    if names.family_of(name) not in _PROVABLE:
        raise UserError(
            f"config.rescale would change what {name} computes",
            expected="a ResNet or MobileNet, whose kernels stand in front of a BatchNorm",
            fix="leave it out, and search the rate for each source instead",
        )
    epsilon = section.get("norm_epsilon", MODELS.defaults(name)["norm_epsilon"])
    out = dict(arrays)
    for key, kernel in arrays.items():
        conv = key.removeprefix("params/").removesuffix("/kernel")
        mean, var = (f"batch_stats/{norm_of(conv)}/{part}" for part in ("mean", "var"))
        if not key.endswith("/kernel") or mean not in arrays:
            continue
        factor = factor_of(kernel)
        scaled = factor**2 * (arrays[var].astype(np.float64) + epsilon) - epsilon
        if not np.isfinite(factor) or factor > 1e20 or scaled.min() < _SMALLEST_VARIANCE:
            raise UserError(
                f"{conv} can't be rescaled: its function would change",
                got=f"factor {factor:.3g}, smallest variance {arrays[var].min():.3g}",
                expected=f"a variance that stays positive beside epsilon {epsilon:g}",
                fix="leave config.rescale out",
            )
        out[key] = (kernel * factor).astype(np.float32)
        out[mean] = (arrays[mean] * factor).astype(np.float32)
        out[var] = scaled.astype(np.float32)
    return out


def _fresh_norm(kernel: np.ndarray) -> float:
    """The expected norm of He's values: variance 2 / fan out."""
    height, width, _, outputs = kernel.shape
    return float(np.sqrt(2 * kernel.size / (height * width * outputs)))
