"""The mesh and where arrays live on it. The rest of the code is written as if one device held the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import math
import os
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
import numpy as np

from radnet_jax import trees, xla_flags
from radnet_jax.errors import UserError, nearest

BATCH_AXES = ("replica", "data")
RULES = ("largest", "replicated")
_BANK = "objective_state/bank/"
SMALL = 2**16  # elements; what is smaller costs more time to gather than its memory is worth

Rules = tuple[tuple[str, str], ...]
"""(regex, rule) pairs; the first whose regex is found in the name of a leaf of the train state says where it lives.

Names are such as "params/backbone/stem_conv/kernel" and "opt_state/0/trace/backbone/stem_conv/kernel", so that
("backbone/.*kernel", "largest") is meant for parameters, optimizer state and averages alike. Rules: "largest" divides
the largest axis that the devices along "data" divide (of equal ones the last), where there is one and the leaf is not
SMALL; "replicated" keeps it whole on each device, as all leaves are that no regex is found in.
"""


def make_mesh(num_devices: int | None = None, *, replica: int = 1) -> Mesh:
    """Returns a (replica, data) mesh over all devices, or over the first `num_devices`.

    The batch is divided over both axes. Arrays divided by `Rules` are divided over "data" and repeated over "replica":
    with as many replicas as hosts, parameters are gathered within a host and only gradients travel between hosts.

    The devices of a process stand next to each other, in the order of the processes, so that process i's rows are the
    i-th block of the global batch. Axes are Auto: under the Explicit default of `jax.make_mesh`, `z @ z.T` on a
    batch-sharded `z` raises.

    Raises:
      UserError: `replica` does not divide the number of devices.
    """
    devices = jax.devices()[:num_devices]
    if replica < 1 or len(devices) % replica:
        divisors = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise UserError(
            "config.mesh.replica does not divide the devices",
            got=f"{replica} over {len(devices)} device(s)",
            expected=f"one of {', '.join(map(str, divisors))}",
        )
    # make_mesh knows the neighbours of a TPU; sorting is stable.
    near = jax.make_mesh((1, len(devices)), BATCH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 2)
    ordered = sorted(near.devices.flat, key=lambda device: device.process_index)
    return Mesh(np.array(ordered).reshape(replica, -1), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts every array of a tree on all devices."""
    return jax.device_put(tree, replicated(mesh))


def make_rules(pairs: Iterable[Iterable[str]]) -> Rules:
    """Returns the rules of a config's `fsdp`; refuses what is no pair of a regular expression and a known rule."""
    rules = []
    for pair in pairs:
        match [pair] if isinstance(pair, str) else list(pair):
            case [str(pattern), str(rule)]:
                pass
            case other:
                raise UserError(
                    "config.fsdp", got=other, expected='(regex, rule) pairs, such as ((".*kernel", "largest"),)'
                )
        if rule not in RULES:
            raise UserError(f"config.fsdp: unknown rule {rule!r}{nearest(rule, RULES)}", expected=", ".join(RULES))
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"config.fsdp: not a regular expression: {error}", got=repr(pattern)) from error
        rules.append((pattern, rule))
    return tuple(rules)


def check_rules(rules: Rules, state: PyTree) -> None:
    """Refuses rules whose regex is found in no leaf of the train state (or of its shapes)."""
    names = [name for name, _ in trees.named_leaves(state)]
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                "a pattern of config.fsdp matches nothing",
                got=repr(pattern),
                expected=f"a regex on names such as {names[1]!r}",
            )


def shardings(tree: PyTree, mesh: Mesh, rules: Rules, prefix: str = "") -> PyTree:
    """Returns where each leaf of a train state lives, or of the part of it whose names begin with `prefix`.

    A memory bank ("objective_state/bank/...") is always divided by rows over all devices, where they divide them.
    """
    placed = [_sharding(prefix + name, leaf.shape, mesh, rules) for name, leaf in trees.named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def _sharding(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> NamedSharding:
    if name.startswith(_BANK):
        return batch_sharding(mesh) if shape[0] % mesh.size == 0 else replicated(mesh)
    rule = next((rule for pattern, rule in rules if re.search(pattern, name)), "replicated")
    ways = mesh.shape["data"]
    fitting = [(size, axis) for axis, size in enumerate(shape) if size % ways == 0]
    if rule == "replicated" or ways == 1 or not fitting or np.prod(shape) < SMALL:
        return replicated(mesh)
    _, axis = max(fitting)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def place(tree: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Puts every array of a train state where it lives."""
    return jax.device_put(tree, shardings(tree, mesh, rules))


def constrain(tree: PyTree, mesh: Mesh, rules: Rules, prefix: str = "") -> PyTree:
    """Inside `jit`: has every leaf of a train state, or of a part of it, computed where it lives.

    Of a gradient each device then needs its own part only: the sum over the devices and the division of its result are
    one reduce-scatter on GPUs and TPUs (XLA's CPU compiler leaves them two).
    """
    return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh, rules, prefix))


def gather(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside `jit`: makes divided arrays whole on each device.

    Left to itself the compiler divides layers by their channels and gathers the examples instead, where the kernel is
    larger than they are.
    """
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def bytes_on_device(tree: PyTree) -> int:
    """Returns the bytes of a tree's arrays that lie on one device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def collectives(hlo: str) -> dict[str, list[int]]:
    """Returns what a compiled program sends between devices: for each kind of collective, the bytes of its results.

    Args:
      hlo: `compiled.as_text()`. What stands in a loop is counted once.
    """
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found: dict[str, list[int]] = {}
    for result, kind, started in re.findall(rf" = (.*?) ({kinds})(-start)?\(", hlo):
        arrays = re.findall(r"\b[a-z]+(\d+)?\w*\[([\d,]*)\]", result)
        if started and kind == "all-gather":  # gives its operands, then its results
            arrays = arrays[len(arrays) // 2 :]
        if started and kind == "collective-permute":  # operand, result, two counters
            arrays = arrays[1:2]
        for bits, shape in arrays:
            size = math.prod(int(n) for n in shape.split(",") if n)
            found.setdefault(kind, []).append(size * max(int(bits or 8) // 8, 1))
    return found


def by_row(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns a function that works on each device's own rows of its arguments, with nothing between devices.

    For functions whose rows don't depend on each other. The compiler can't see that where they loop over rows, and
    would gather the whole batch on every device.
    """
    rows = PartitionSpec(BATCH_AXES)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)


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


def check_groups(groups: int, rows: int, mesh: Mesh) -> None:
    """Refuses parts of a batch that are not alike, too small to have statistics, or cut across by the devices."""
    if groups < 1 or rows % groups or (groups > 1 and rows < 2 * groups):
        raise UserError(
            "config.groups does not divide the rows that are computed at a time",
            got=f"{groups} for {rows} rows",
            expected=f"at least 1 and at most {max(rows // 2, 1)}, a divisor of {rows}",
        )
    if groups % mesh.size and mesh.size % groups:
        raise UserError(
            "config.groups and the number of devices do not divide each other",
            got=f"{groups} groups on {mesh.size} devices",
            fix="change either, so that each device has whole groups or each group whole devices",
        )


def topology(mesh: Mesh) -> dict[str, Any]:
    """Returns what a run records of the machine: platform, device kind, counts, XLA's flags."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "xla_flags": xla_flags.in_effect(os.environ),
    }
