"""What this process may use of its machine, which is less than all under Slurm, Kubernetes or `taskset`. No jax."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import re


def cores() -> int:
    """Returns the number of cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas()]))


def memory() -> tuple[int, int, int]:
    """Returns bytes of memory: free, the limit of this job, and what the machine has; zeros where that is not told."""
    try:
        info = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    except OSError:
        return 0, 0, 0
    free, total = int(info["MemAvailable"]) * 1024, int(info["MemTotal"]) * 1024
    limit = min([total, *_limits()])
    return min(free, limit), limit, total


def _limits() -> Iterator[int]:
    """Limits of memory of this process's control group and those above it, of either version."""
    for text in (*_settings("memory", "memory.limit_in_bytes", version=1), *_settings("", "memory.max", version=2)):
        if text.isdigit():
            yield int(text)


def _quotas() -> Iterator[int]:
    """Whole cores that the control groups give to this process, of version 2."""
    for text in _settings("", "cpu.max", version=2):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) // int(period)


def _settings(kind: str, name: str, *, version: int) -> Iterator[str]:
    """The texts of a setting, in this process's control group and in those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kind not in kinds.split(",") or bool(kinds) != (version == 1):
            continue
        root = f"/sys/fs/cgroup/{kind}" if version == 1 else "/sys/fs/cgroup"
        group = Path(root + path)
        for place in (group, *group.parents):
            if place.is_relative_to(root) and (place / name).is_file():
                yield (place / name).read_text().strip()
