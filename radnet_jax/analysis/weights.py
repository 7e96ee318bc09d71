"""What fine-tuning did to the weights: change of each block, and the first study's feature reuse and uniqueness."""

from __future__ import annotations

from collections.abc import Mapping
import itertools
import re
from typing import Any

from jaxtyping import Float
import numpy as np

from radnet_jax import trees
from radnet_jax.analysis import similarity
from radnet_jax.errors import UserError

# torchvision's conv1, layer1.0.conv1 and layer1.0.conv2 by our names.
PUBLISHED_LAYERS = ("stem_conv/kernel", "stage1_block1/conv1/kernel", "stage1_block1/conv2/kernel")
PUBLISHED_BLOCKS = 8


def changes(before: Any, after: Any) -> dict[str, dict[str, float]]:
    """How far the weights of each block moved.

    Args:
      before: parameters of a backbone.
      after: parameters of the same architecture.

    Returns:
      For each module below the backbone, in the tree's order: "relative", the norm of the difference of its kernels by
      the norm of the kernels before, and "cosine" of the two; NaN where they were 0. Biases and normalisations are left
      out: their size says nothing beside that of kernels.

    Raises:
      UserError: weights of two architectures.
    """
    old, new = (dict(_kernels(tree)) for tree in (before, after))
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        raise UserError("weights of two architectures can't be compared one by one", expected="the same layers")
    blocks: dict[str, list[str]] = {}
    for name in old:
        blocks.setdefault(name.split("/")[0], []).append(name)
    out = {}
    for block in sorted(blocks, key=_order):
        a, b = (np.concatenate([w[n].ravel() for n in blocks[block]]).astype(np.float64) for w in (old, new))
        sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        out[block] = {
            "relative": float(np.linalg.norm(b - a)) / sizes[0] if sizes[0] else float("nan"),
            "cosine": float(a @ b) / (sizes[0] * sizes[1]) if sizes[0] and sizes[1] else float("nan"),
        }
    return out


def published_reuse(before: Any, after: Any) -> dict[str, float]:
    """The first study's "feature reuse" of each of its three layers: RBF-CKA of the weights before and after.

    As published: rows are output channel x kernel row x kernel column, columns the input channels; Gaussian kernels
    exp(-d^2 / (2 s^2)), s^2 the median of the non-zero squared distances (of two in the middle the smaller one);
    biased HSIC. So it compares where a filter's weights lie relative to each other, not what the network does with
    images: it is 1 for weights that are scaled, and for ones whose input channels are rotated, though the network then
    computes something else.

    Raises:
      UserError: a network that is no ResNet; weights of two architectures.
    """
    old, new = published_weights(before), published_weights(after)
    return {name: similarity.rbf_cka(old[name], new[name], debiased=False) for name in old}


def published_uniqueness(params: Any) -> dict[str, float]:
    """The first study's "feature uniqueness": 1 - RBF-CKA between 8 equal blocks of rows of one layer's weights.

    The mean over the 28 pairs of blocks. Rows that are left over are not used. Rows of a block stand for other filters
    than the same rows of another block, so that what CKA compares here is their order in the file.
    """
    out = {}
    for name, rows in published_weights(params).items():
        blocks = np.split(rows[: len(rows) // PUBLISHED_BLOCKS * PUBLISHED_BLOCKS], PUBLISHED_BLOCKS)
        pairs = itertools.combinations(blocks, 2)
        out[name] = float(np.mean([1 - similarity.rbf_cka(a, b, debiased=False) for a, b in pairs]))
    return out


def published_weights(params: Any) -> dict[str, Float[np.ndarray, "r c"]]:
    """Returns the weights of the first study's three layers as rows (output, kernel row, kernel column) x inputs."""
    kernels = dict(_kernels(params))
    missing = [name for name in PUBLISHED_LAYERS if name not in kernels]
    if missing:
        raise UserError(
            'protocol "radnet_published" is defined for ResNets',
            got=f"a network without {missing[0]}",
            fix='set --config.protocol="default"',
        )
    return {name: _rows(kernels[name]) for name in PUBLISHED_LAYERS}


def _rows(kernel: Float[np.ndarray, "h w i o"]) -> Float[np.ndarray, "r i"]:
    out = np.asarray(kernel, np.float64).transpose(3, 0, 1, 2)
    return out.reshape(-1, out.shape[-1])


def _kernels(params: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(leaf)) for name, leaf in trees.named_leaves(params) if name.endswith("kernel")]


def _order(name: str) -> tuple[int, ...]:
    """Stem first, then by numbers, then what has none."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", name))
    return (0,) if name.startswith(("stem", "patch_embed")) else (1, *numbers) if numbers else (2,)
