"""Names, sizes and strict merging of pytrees. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, UInt32
import numpy as np

from radnet_jax.errors import UserError

_AT_ONCE = 2**20  # values that a digest on the host works on
_SHOWN = 5  # names listed in a message before "and n more"


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns (name, leaf) pairs, names like `backbone/stage1_block1/conv1/kernel`, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of dicts that has these names, as `named_leaves` gives them."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def size_bytes(tree: PyTree) -> int:
    """Returns the bytes of all arrays (or shape structs) of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def digest(tree: PyTree) -> UInt32[Array, " leaves"]:
    """Returns one 32-bit sum for each leaf, over the leaf's bits and their positions.

    Integer sums do not depend on their order, so that the digest is equal on any number of devices and processes;
    jit-able. Catches flipped, moved and missing values (it guards against bit rot, not against an adversary).
    """
    return jnp.stack([_leaf_digest(leaf) for leaf in jax.tree.leaves(tree)])


def _leaf_digest(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32).ravel()
    position = jax.lax.iota(jnp.uint32, bits.size)
    mixed = (bits ^ (position * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA77)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)


def host_digest(x: np.ndarray) -> int:
    """Returns `digest` of one array of the host: the same number, with nothing to compile."""
    x = np.ascontiguousarray(x).reshape(-1)
    bits = x.view(np.uint8 if x.dtype == np.bool_ else f"uint{8 * x.dtype.itemsize}")
    total = 0
    for first in range(0, bits.size, _AT_ONCE):
        part = bits[first : first + _AT_ONCE].astype(np.uint32)
        position = np.arange(first, first + part.size, dtype=np.uint64).astype(np.uint32)
        mixed = (part ^ (position * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA77)
        total += int((mixed ^ (mixed >> 15)).sum(dtype=np.uint32))
    return total % 2**32


def shown(names: list[str]) -> str:
    """Returns names for a message: the first few, and how many more there are."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def merge_strict(
    loaded: Mapping[str, Any], initial: PyTree, *, new: str = "", ignored: str = "", source: str = "checkpoint"
) -> PyTree:
    """Returns `initial` with the leaves of `loaded` in place; strict both ways.

    Args:
      loaded: flat mapping of names (as in `named_leaves`) to arrays.
      initial: the tree to fill.
      new: regex of names that keep their initial value (the heads); full match.
      ignored: regex of loaded names that are not used (the pretraining's projector); full match.
      source: what `loaded` is, for messages.

    Raises:
      UserError: a missing, an unused or a differently shaped weight outside `new` and `ignored`; all are counted, the
        first few are named.
    """
    used, missing, misshaped, merged = set(), [], [], []
    for name, leaf in named_leaves(initial):
        if new and re.fullmatch(new, name):
            merged.append(leaf)
        elif name not in loaded:
            missing.append(name)
        elif tuple(loaded[name].shape) != tuple(leaf.shape):
            misshaped.append(f"{name} {tuple(loaded[name].shape)} instead of {tuple(leaf.shape)}")
        else:
            used.add(name)
            merged.append(jnp.asarray(loaded[name], leaf.dtype))
    unused = [n for n in loaded if n not in used and not (ignored and re.fullmatch(ignored, n))]
    unused = [n for n in unused if not any(m.startswith(f"{n} ") for m in misshaped)]
    problems = [
        f"{len(names)} {what}: {shown(names)}"
        for what, names in (("missing", missing), ("of another shape", misshaped), ("unused", unused))
        if names
    ]
    if problems:
        raise UserError(
            f"the weights of {source} do not fit the model ({'; '.join(problems)})",
            fix="use the backbone config that the weights were trained with",
        )
    return jax.tree.unflatten(jax.tree.structure(initial), merged)
