"""What every block of a backbone gives: the layers of an analysis."""

from __future__ import annotations

import re

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError

_BLOCK = re.compile(r"(stage\d+_)?(block|layer)\d+")


def pooled_blocks(backbone: nn.Module, variables: PyTree, image: Float[Array, "b h w c"]) -> dict[str, Array]:
    """Returns `block_maps` as means over all pixels or patches: `{name: [b d] float32}`."""
    return {name: pooled(found) for name, found in block_maps(backbone, variables, image).items()}


def block_maps(backbone: nn.Module, variables: PyTree, image: Float[Array, "b h w c"]) -> dict[str, Array]:
    """Returns the output of each block in order: `{name: [b h w d]}`, or [b t d] of a ViT.

    Blocks are the modules directly below the backbone that are called stageN_blockM, blockN or stageN_layerM; in eval
    mode. A ViT's class token is left out, so that all layers are of the same kind.

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
    outputs = {name: found[name]["__call__"][0] for name in sorted(found, key=_order)}
    return {name: x[:, 1:] if x.ndim == 3 else x for name, x in outputs.items()}  # tokens: the class token is first


def pooled(x: Float[Array, "b ... d"]) -> Float[Array, "b d"]:
    """Returns the means over pixels or patches, in float32."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", name))
