"""What objectives with multi-crop share: a pass over global views, one over local ones if any, a projection of all."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

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
    for views in (batch[name] for name in ("views", "local_views") if name in batch):
        outputs, stats = networks.apply(backbone, params, stats, networks.fold(views), train=True)
        features.append(networks.unfold(outputs["backbone"], views.shape[1]))
    joined = jnp.concatenate(features, axis=1)
    flat = joined.reshape(-1, joined.shape[-1])
    outputs, stats = networks.apply(projector, params, stats, flat, train=True)
    return joined, networks.unfold(outputs["projector"], joined.shape[1]), stats


def requires(local_views: int) -> frozenset[str]:
    """Returns the views that a batch holds: local ones where the augmentation makes them."""
    return frozenset({"views", "local_views"} if local_views else {"views"})
