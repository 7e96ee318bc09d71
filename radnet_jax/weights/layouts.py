"""Names and forms of weights in other libraries, for each family of backbones: one table for both directions.

A layout says what each of our weights is called there and how it lies. It is read from our side, so that nothing can be
left out: whatever our network has must have a place in theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from radnet_jax import trees
from radnet_jax.models import MODELS
from radnet_jax.registry import named

Rule = tuple[str, Any]  # (regex of our module, their module: a text, or a function of the groups, numbers as numbers)

TORCH_LEAVES = {
    "kernel": ".weight",
    "scale": ".weight",
    "bias": ".bias",
    "mean": ".running_mean",
    "var": ".running_var",
    "relative_position/bias": ".relative_position_bias_table",
    "layer_scale/scale": ".layer_scale",
}
# Not weights: counters, and indices and masks that follow from the shapes.
BUFFERS = r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask)"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library names and lays out the weights of one family.

    Attributes:
      rules: from the names of all our modules to rules; the first that matches a module counts.
      leaves: what is appended to their module, by our leaf.
      whole: their names of weights that are of no module, by our path.
      native: kernels lie as ours (HWIO, inputs before outputs), perhaps with more or fewer dimensions.
    """

    rules: Callable[[Collection[str]], Sequence[Rule]]
    leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: TORCH_LEAVES)
    whole: Mapping[str, str] = dataclasses.field(default_factory=dict)
    native: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of our arrays and where it lies in theirs.

    Attributes:
      ours: name, such as "params/stage1_block1/conv1/kernel".
      shape: of ours.
      theirs: names of the arrays that ours is made of, joined along its last axis; mostly one.
      form: "same", "conv" (OIHW), "linear" (outputs first), "column" ([c 1 1]) or "flat" (other dimensions).
    """

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    form: str

    def to_ours(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns our array, as a view where that is possible; a ValueError where the shapes do not fit."""
        part = (*self.shape[:-1], self.shape[-1] // len(arrays)) if self.shape else ()
        parts = []
        for theirs, array in zip(self.theirs, arrays):
            found = _FORMS[self.form][0](array, part)
            if found is None or found.shape != part:
                raise ValueError(f"{theirs} {tuple(array.shape)}")
            parts.append(found)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def to_theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Returns their arrays by name, as views where that is possible."""
        parts = np.split(array, len(self.theirs), axis=-1) if len(self.theirs) > 1 else [array]
        return {name: _FORMS[self.form][1](part) for name, part in zip(self.theirs, parts)}


def _conv(array: np.ndarray, _: Any) -> np.ndarray | None:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else None


def _linear(array: np.ndarray, _: Any) -> np.ndarray | None:
    return array.T if array.ndim == 2 else None


def _column(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    return array.reshape(shape) if array.shape == (*shape, 1, 1) else None


def _flat(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    return array.reshape(shape) if array.size == np.prod(shape, dtype=int) else None


_FORMS: dict[str, tuple[Callable[..., np.ndarray | None], Callable[[np.ndarray], np.ndarray]]] = {
    "same": (lambda array, _: array, lambda array: array),
    "conv": (_conv, lambda array: array.transpose(3, 2, 0, 1)),
    "linear": (_linear, lambda array: array.T),
    "column": (_column, lambda array: array.reshape(-1, 1, 1)),
    "flat": (_flat, lambda array: array),  # their dimensions are not known here: for reading only
}


def family_of(backbone: str) -> str:
    """Returns the family of a backbone by its name: resnet, vit, convnext, swin, mobilenet or densenet."""
    return re.match("[a-z]+", backbone)[0]  # type: ignore[index]


def shapes_of(section: Mapping[str, Any], channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights and statistics of a backbone by name; nothing is computed.

    Args:
      section: the backbone section of a config, `name` and arguments.
      channels: of the input.
    """
    name, arguments = named(section)
    return dict(_shapes_of(name, tuple(sorted(arguments.items())), channels))


@functools.lru_cache(maxsize=64)
def _shapes_of(name: str, items: tuple[tuple[str, Any], ...], channels: int) -> dict[str, tuple[int, ...]]:
    arguments = dict(items)
    module = MODELS.build(name, arguments)
    side = arguments.get("image_size", 64)
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    return {name: tuple(leaf.shape) for name, leaf in trees.named_leaves(dict(variables))}


def entries(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """Returns where each of our arrays lies in a layout.

    Args:
      layout: of the family.
      shapes: of our arrays, see `shapes_of`.
    """
    split = {name: _split(name, layout) for name in shapes}
    rules = layout.rules({module for module, _ in split.values()})
    found = []
    for name, shape in shapes.items():
        module, leaf = split[name]
        if module in layout.whole:
            theirs: tuple[str, ...] = (layout.whole[module],)
        else:
            base = _module(module, rules)
            suffix = layout.leaves[leaf]
            theirs = tuple(b + suffix for b in ((base,) if isinstance(base, str) else base))
        found.append(Entry(name, shape, theirs, _form(leaf, shape, layout)))
    return found


def _split(name: str, layout: Layout) -> tuple[str, str]:
    """Our module and leaf of a name; a weight of no module is its own."""
    path = name.partition("/")[2]
    if path in layout.whole:
        return path, ""
    for leaf in ("relative_position/bias", "layer_scale/scale"):
        if path.endswith(f"/{leaf}"):
            return path.removesuffix(f"/{leaf}"), leaf
    module, _, leaf = path.rpartition("/")
    return module, leaf


def _module(module: str, rules: Sequence[Rule]) -> str | tuple[str, ...]:
    for pattern, theirs in rules:
        if match := re.fullmatch(pattern, module):
            groups = [int(g) if g.isdigit() else g for g in match.groups()]
            return theirs(*groups) if callable(theirs) else theirs
    raise AssertionError(f"no rule for {module!r}")


def _form(leaf: str, shape: tuple[int, ...], layout: Layout) -> str:
    if layout.native:
        return "flat"
    if leaf == "kernel":
        return "conv" if len(shape) == 4 else "linear"
    return "column" if leaf == "layer_scale/scale" and layout.leaves[leaf] == ".layer_scale" else "same"
