"""What every block of a backbone gives, pooled: the layers of an analysis."""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError

_BLOCK = re.compile(r"(stage\d+_)?(block|layer)\d+")


def pooled_blocks(backbone: nn.Module, variables: PyTree, image: Float[Array, "b h w c"]) -> dict[str, Array]:
    """Returns the output of each block in order, as means over all pixels or patches: `{name: [b d] float32}`.

    Blocks are the modules directly below the backbone that are called stageN_blockM, blockN or stageN_layerM; in eval
    mode. A ViT's class token is left out, so that all layers are means of the same kind.

    Raises:
      UserError: a backbone without such modules.
    """

    def is_block(module: nn.Module, method: str) -> bool:
        path = module.path
        return method == "__call__" and len(path) == 1 and _BLOCK.fullmatch(path[0]) is not None

    _, state = backbone.apply(variables, image, train=False, capture_intermediates=is_block, mutable=["intermediates"])
    found = state.get("intermediates", {})
    if not found:
        raise UserError(f"backbone {type(backbone).__name__} has no blocks to look at")
    return {name: _pooled(outputs["__call__"][0]) for name, outputs in sorted(found.items(), key=_order)}


def _order(item: tuple[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", item[0]))


def _pooled(x: Any) -> Float[Array, "b d"]:
    if x.ndim == 3:  # tokens, the class token first
        x = x[:, 1:]
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
