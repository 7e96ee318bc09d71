"""Maps on the input: which pixels of an image a number that a network gives depends on."""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
import numpy as np
from scipy.stats import rankdata

Outputs = Callable[[PyTree, PyTree, Float[Array, "n h w c"]], Float[Array, "n d"]]
"""(params, state, standardised images) -> numbers of each image, each image by itself. Equal ones compile once."""

MAPS = ("gradient", "input_x_gradient", "occlusion")
SIGNED = ("input_x_gradient", "occlusion")
GRID = 7  # places of the patch along a side


def of_images(
    outputs: Outputs,
    params: PyTree,
    state: PyTree,
    image: Float[Array, "n h w c"],
    direction: Float[np.ndarray, "n d"],
) -> dict[str, Float[np.ndarray, "n h w"]]:
    """Returns the MAPS of the number `outputs(image) . direction`, of each image with its own direction.

      gradient: its absolute value, the largest over channels (Simonyan et al. 2014, section 3.1). How strongly the
        number would follow a small change there.
      input_x_gradient: their product, summed over channels (Shrikumar et al. 2016); signed. To first order, what the
        pixel's distance from the mean of the input adds.
      occlusion: by how much the number falls when a grey patch hides the pixel (Zeiler and Fergus 2014, section 4.2);
        signed. Mean over the patches that hide it; a patch has a quarter of a side, grey is the mean of the input.

    Args:
      outputs: of the network, in eval mode.
      params: its weights.
      state: its statistics.
      image: what the network is given, standardised: 0 is the mean.
      direction: one-hot for a single unit or class.
    """
    found = _compiled(outputs)(params, state, jnp.asarray(image), jnp.asarray(direction, jnp.float32))
    return {name: np.asarray(values) for name, values in found.items()}


def patches(height: int, width: int) -> Float[np.ndarray, "p h w"]:
    """Returns where the patch of each of the GRID x GRID places is: 1 inside, 0 outside; every pixel is in one."""

    def starts(side: int, patch: int) -> list[int]:
        return sorted({round(float(s)) for s in np.linspace(0, side - patch, GRID)})

    patch = max(height // 4, 1), max(width // 4, 1)
    out = []
    for top in starts(height, patch[0]):
        for left in starts(width, patch[1]):
            mask = np.zeros((height, width), np.float32)
            mask[top : top + patch[0], left : left + patch[1]] = 1
            out.append(mask)
    return np.stack(out)


def agreement(x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]) -> float:
    """Spearman's rank correlation of two maps without their signs, as in the sanity checks of Adebayo et al. (2018,
    section 4.1); NaN where one is the same everywhere.
    """
    a, b = (rankdata(np.abs(m)) for m in (x, y))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return float(np.sum(a * b)) / norm if norm > 0 else float("nan")


@functools.lru_cache(maxsize=16)
def _compiled(outputs: Outputs) -> Callable[..., dict[str, Array]]:
    def run(params: PyTree, state: PyTree, image: Array, direction: Array) -> dict[str, Array]:
        def number(x: Array, along: Array) -> Array:
            return outputs(params, state, x) @ along

        hidden = jnp.asarray(patches(*image.shape[1:3]))

        def both(one: tuple[Array, Array]) -> dict[str, Array]:
            x, along = one
            whole, slope = jax.value_and_grad(lambda x: number(x[None], along)[0])(x)
            fall = whole - number(x * (1 - hidden[..., None]), along)
            spread = jnp.einsum("p,phw->hw", fall, hidden) / hidden.sum(axis=0)
            return {"gradient": jnp.abs(slope).max(-1), "input_x_gradient": (x * slope).sum(-1), "occlusion": spread}

        return lax.map(both, (image, direction))  # one image after another, its patches together

    return jax.jit(run)
