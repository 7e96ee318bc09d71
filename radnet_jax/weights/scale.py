"""The scale of weights: kernels in front of a BatchNorm brought to the norm of fresh ones, the function unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import re
from typing import Any

import numpy as np

from radnet_jax.errors import UserError, nearest
from radnet_jax.models import MODELS
from radnet_jax.weights import names

TARGETS = ("none", "initial")
# The families whose kernels (but those of squeeze and excite) are seen by BatchNorms alone, and how they begin.
_PROVABLE = {"resnet": "fan_out", "mobilenet": "fan_out", "densenet": "fan_in"}
_SMALLEST_VARIANCE = 1e-12


def norms_behind(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """Returns for each convolution the BatchNorms that see its output, and where in their channels it begins.

    Args:
      arrays: by name, "params/..." and "batch_stats/...".
      section: the backbone section, of a family in which this is known.
    """
    if names.family_of(section["name"]) == "densenet":
        return _of_densenet(arrays)
    convs = [key.removeprefix("params/").removesuffix("/kernel") for key in arrays if key.endswith("/kernel")]
    behind = {conv: _norm_of(conv) for conv in convs}
    return {conv: [(norm, 0)] for conv, norm in behind.items() if f"batch_stats/{norm}/mean" in arrays}


def _norm_of(conv: str) -> str:
    """The BatchNorm behind a convolution: stage1_block1/conv2 -> stage1_block1/norm2."""
    path, slash, last = conv.rpartition("/")
    return f"{path}{slash}{last.replace('conv', 'norm')}"


def _of_densenet(arrays: Mapping[str, np.ndarray]) -> dict[str, list[tuple[str, int]]]:
    """Of a DenseNet, where a layer's output is a part of what all later layers of its block see, each by a norm."""
    found: dict[str, list[tuple[str, int]]] = {"stem_conv": [("stem_norm", 0)]}
    parts: list[
        tuple[str, int]
    ] = []  # convolutions in the map so far, and their first channels; the stem is normalised
    width = _outputs(arrays, "stem_conv")

    def see(norm: str) -> None:
        for conv, first in parts:
            found.setdefault(conv, []).append((norm, first))

    for module in _in_order({key.split("/")[1] for key in arrays if key.startswith("params/stage")}):
        if module.endswith("_transition"):
            see(f"{module}/norm")
            parts, width = [(f"{module}/conv", 0)], _outputs(arrays, f"{module}/conv")
        else:
            see(f"{module}/norm1")
            found[f"{module}/conv1"] = [(f"{module}/norm2", 0)]
            parts.append((f"{module}/conv2", width))
            width += _outputs(arrays, f"{module}/conv2")
    see("final_norm")
    return found


def _in_order(modules: set[str]) -> list[str]:
    """A DenseNet's as they are computed: stage2_transition, stage2_layer01, stage2_layer02, ..."""
    return sorted(modules, key=lambda module: [int(n) for n in re.findall(r"\d+", module)])


def _outputs(arrays: Mapping[str, np.ndarray], conv: str) -> int:
    return int(arrays[f"params/{conv}/kernel"].shape[-1])


def rescale(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], *, to: str) -> dict[str, np.ndarray]:
    """Returns weights whose kernels have the norm that they begin with at random; the function stays the same.

    The norm that a fresh kernel has (He et al. 2015) is sqrt(2 * number of its values / fan), of the fan that the
    network begins with: out, of a DenseNet in.

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
    fan = _PROVABLE.get(names.family_of(section["name"]), "")
    return multiply(arrays, section, lambda kernel: fresh_norm(kernel, fan) / max(float(np.linalg.norm(kernel)), 1e-30))


def multiply(
    arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], factor_of: Callable[[np.ndarray], float]
) -> dict[str, np.ndarray]:
    """Returns weights with each kernel in front of a BatchNorm multiplied, and the function the same.

    A BatchNorm divides by the deviation of what it sees. With a kernel a * w its input is a * x, so with the statistics
    a * m and a^2 * (v + e) - e, where e is its epsilon, it returns what it did: (a x - a m) / sqrt(a^2 (v + e)). It
    does so channel by channel, so the same holds where the maps of several kernels lie side by side (DenseNet). A
    channel that hardly varies would need a negative variance if it were made smaller: its filter is multiplied by as
    little as leaves it none. This is exact in eval mode. In training, where the batch's own statistics are taken, e
    counts a^2 times as much or as little against the variance as before.

    Args:
      arrays: by name, "params/..." and "batch_stats/...".
      section: the backbone section.
      factor_of: of a kernel.

    Raises:
      UserError: a backbone where this can't be shown (a LayerNorm normalises all channels together, and its epsilon
        can't be made up for); a kernel of zeros.
    """
    name = section["name"]
    if names.family_of(name) not in _PROVABLE:
        raise UserError(
            f"config.rescale would change what {name} computes",
            expected="a ResNet, MobileNet or DenseNet, whose kernels stand in front of BatchNorms",
            fix="leave it out, and search the rate for each source instead",
        )
    epsilon = section.get("norm_epsilon", MODELS.defaults(name)["norm_epsilon"])
    out = dict(arrays)
    factors: dict[str, np.ndarray] = {}
    for conv, norms in norms_behind(arrays, section).items():
        kernel = arrays[f"params/{conv}/kernel"]
        factor = factor_of(kernel)
        if not np.isfinite(factor) or factor > 1e20:
            raise UserError(
                f"{conv} can't be rescaled", got=f"factor {factor:.3g}", expected="a kernel that is not zero",
                fix="leave config.rescale out",
            )  # fmt: skip
        seen = [(norm, slice(first, first + kernel.shape[-1])) for norm, first in norms]
        var = np.min([arrays[f"batch_stats/{norm}/var"][part] for norm, part in seen], axis=0).astype(np.float64)
        by_channel = np.maximum(factor, np.sqrt((_SMALLEST_VARIANCE + epsilon) / (var + epsilon)))
        for norm, part in seen:
            factors.setdefault(norm, np.ones(len(arrays[f"batch_stats/{norm}/var"])))[part] = by_channel
        out[f"params/{conv}/kernel"] = (kernel * by_channel).astype(np.float32)
    for norm, by_channel in factors.items():
        mean, variance = (f"batch_stats/{norm}/{part}" for part in ("mean", "var"))
        out[mean] = (arrays[mean] * by_channel).astype(np.float32)
        out[variance] = (by_channel**2 * (arrays[variance].astype(np.float64) + epsilon) - epsilon).astype(np.float32)
    return out


def fresh_norm(kernel: np.ndarray, fan: str) -> float:
    """Returns the expected norm of a kernel of variance 2 / fan (He et al.); `fan` is "fan_in" or "fan_out"."""
    height, width, inputs, outputs = kernel.shape
    return float(np.sqrt(2 * kernel.size / (height * width * (inputs if fan == "fan_in" else outputs))))
