"""What objectives with multi-crop share: one pass over global views, one over local ones, one projection of all."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.objectives import Batch, networks


def apply(
    modules: networks.Modules, params: Mapping[str, PyTree], batch_stats: Mapping[str, PyTree], batch: Batch
) -> tuple[Float[Array, "b v f"], Float[Array, "b v d"], dict[str, PyTree]]:
    """Returns features and embeddings of all views, the global ones first, and the new batch statistics.

    Each size of view is a pass of the backbone with BatchNorm statistics of its own; the projector sees all of them at
    once (as Caron et al. 2020 have it in their implementation).
    """
    backbone, projector = {"backbone": modules["backbone"]}, {"projector": modules["projector"]}
    features, stats = [], dict(batch_stats)
    for name in ("views", "local_views"):
        views = batch[name]
        outputs, stats = networks.apply(backbone, params, stats, networks.fold(views), train=True)
        features.append(networks.unfold(outputs["backbone"], views.shape[1]))
    joined = jnp.concatenate(features, axis=1)
    flat = joined.reshape(-1, joined.shape[-1])
    outputs, stats = networks.apply(projector, params, stats, flat, train=True)
    return joined, networks.unfold(outputs["projector"], joined.shape[1]), stats


def check(name: str, local_views: int) -> None:
    """Refuses an augmentation without local views."""
    if local_views < 1:
        raise UserError(
            f"{name}: the augmentation makes no local views",
            fix='set --config.augment.local_views, or --config.augment.name="swav_multicrop" for photographs',
        )
