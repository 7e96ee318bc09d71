"""The mesh and where arrays live on it. The rest of the code is written as if one device held the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
import numpy as np

from radnet_jax.errors import UserError

BATCH_AXES = ("replica", "data")


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a (replica, data) mesh over all devices, or over the first `num_devices`.

    Axes are Auto: under the Explicit default of `jax.make_mesh`, `z @ z.T` on a batch-sharded `z` raises.
    """
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((1, len(devices)), BATCH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts every array of a tree on all devices."""
    return jax.device_put(tree, replicated(mesh))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh, *, what: str = "batch_size", parts: int = 1) -> None:
    """Refuses a global batch that the devices, or the devices times `parts` in turn, can't divide."""
    unit = mesh.size * parts
    if batch_size < 1 or batch_size % unit:
        lower = max(batch_size // unit, 1) * unit
        in_turn = f" in {parts} parts" if parts > 1 else ""
        raise UserError(
            f"{what} can't be divided over the devices",
            got=f"{batch_size} over {mesh.size} device(s){in_turn}",
            expected=f"a multiple of {unit}",
            fix=f"use {lower} or {lower + unit}",
        )


def topology(mesh: Mesh) -> dict[str, Any]:
    """Returns what a run records of the machine: platform, device kind and counts."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
    }
