"""Chains of networks: a backbone, and small networks each on the output of the one before. What objectives share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

Modules = Mapping[str, nn.Module]
"""Names to modules: "backbone" first, then for instance "projector" and "predictor"."""


def init(rng: Array, modules: Modules, image: Float[Array, "b h w c"]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters and the batch statistics of a chain, by the names of its modules.

    The backbone is the one that training from scratch with the same key begins with.
    """
    key, rest = jax.random.split(rng)
    params, batch_stats = {}, {}
    shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
    for number, (name, module) in enumerate(modules.items()):
        x = jnp.zeros(shape.shape, shape.dtype)
        variables = module.init(key, x, train=False)
        params[name], batch_stats[name] = variables["params"], variables.get("batch_stats", {})
        shape = jax.eval_shape(lambda v, x, m=module: _output(m.apply(v, x, train=False)), variables, x)
        key = jax.random.fold_in(rest, number)
    return params, batch_stats


def apply(
    modules: Modules, params: Mapping[str, PyTree], batch_stats: Mapping[str, PyTree], x: Array, *, train: bool
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Applies a chain to images, or what is left of one to what its first network takes.

    Args:
      modules: in order.
      params: by name; more than the chain has are ignored.
      batch_stats: by name.
      x: standardised images [n h w c], or features [n d].
      train: BatchNorm uses the batch's statistics, and updates its running ones.

    Returns:
      The output of each network by name ("backbone": its pooled features), and batch_stats with new ones in place.
    """
    outputs, stats = {}, dict(batch_stats)
    for name, module in modules.items():
        variables = {"params": params[name], "batch_stats": batch_stats[name]}
        out: Any
        if train:
            out, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
            stats[name] = updates.get("batch_stats", {})
        else:
            out = module.apply(variables, x, train=False)
        outputs[name] = x = _output(out)
    return outputs, stats


def apply_views(
    modules: Modules,
    params: Mapping[str, PyTree],
    batch_stats: Mapping[str, PyTree],
    views: Float[Array, "b v h w c"],
) -> tuple[dict[str, Float[Array, "b v d"]], dict[str, PyTree]]:
    """Trains a chain on views, each in a pass of its own: BatchNorm's statistics are of one view of the batch.

    The codes of BYOL, SimSiam, Barlow Twins and VICReg do so; that of SimCLR has both views in one pass (`fold`).
    """
    passes, stats = [], dict(batch_stats)
    for v in range(views.shape[1]):
        outputs, stats = apply(modules, params, stats, views[:, v], train=True)
        passes.append(outputs)
    return {name: jnp.stack([outputs[name] for outputs in passes], axis=1) for name in modules}, stats


def _output(x: Any) -> Array:
    return x["pooled"] if isinstance(x, dict) else x


def fold(views: Float[Array, "b v h w c"]) -> Float[Array, "(b v) h w c"]:
    """Joins examples and views, batch-major: the batch stays divided over devices by example."""
    return views.reshape(-1, *views.shape[2:])


def unfold(x: Float[Array, "(b v) d"], views: int) -> Float[Array, "b v d"]:
    """Undoes `fold` on what a network made of the views."""
    return x.reshape(-1, views, *x.shape[1:])


def features(modules: Modules, params: PyTree, model_state: PyTree, image: Array) -> dict[str, Array]:
    """What `predict` of a pretraining objective returns: the backbone's features in eval mode."""
    backbone = {"backbone": modules["backbone"]}
    outputs, _ = apply(backbone, params, model_state["batch_stats"], image, train=False)
    return {"features": outputs["backbone"]}


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Rows of length one, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def make_target(names: tuple[str, ...], params: PyTree, model_state: PyTree) -> dict[str, PyTree]:
    """Returns a target network: copies of the online networks of these names, BatchNorm's statistics included."""
    stats = model_state["batch_stats"]
    copies = {"params": {n: params[n] for n in names}, "batch_stats": {n: stats[n] for n in names}}
    return jax.tree.map(jnp.copy, copies)  # a donated state may not hold one array twice


def follow(target: Mapping[str, PyTree], params: PyTree, momentum: float | Array) -> dict[str, PyTree]:
    """Returns the target network after a step: params <- momentum * params + (1 - momentum) * online.

    Its BatchNorm statistics are of its own passes, and stay.
    """
    online = {name: params[name] for name in target["params"]}
    blend = jax.tree.map(lambda t, o: momentum * t + (1 - momentum) * o, target["params"], online)
    return {**target, "params": blend}


def rising_momentum(base: float, step: Int[Array, ""], total_steps: int) -> Float[Array, ""]:
    """1 - (1 - base) (1 + cos(pi t / T)) / 2: from `base` at step 0 to 1 at the end (Grill et al. 2020, 3.3)."""
    t = jnp.minimum(step / total_steps, 1.0)
    return 1 - (1 - base) * (1 + jnp.cos(jnp.pi * t)) / 2
