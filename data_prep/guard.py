"""Limits of time and memory under which each file is read.

A worker process says in a few shared bytes which item it is reading and since when; the process that watches it ends a
worker that takes too long (`pool.py`). Outside a worker only `MemoryError` is caught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import mmap
import struct
import time

from data_prep.spec import Reject

SLOT = struct.Struct("<qqd")  # task, item (-1 = between items), start of the item on the monotonic clock
IDLE = -1
DEFAULT_SECONDS = 60.0
DEFAULT_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may cost: seconds on the wall clock, bytes of memory above what a worker has at rest."""

    seconds: float = DEFAULT_SECONDS
    memory: int = DEFAULT_BYTES


@dataclasses.dataclass
class _State:
    slot: mmap.mmap | None = None
    task: int = 0
    spoilt: Mapping[int, str] = dataclasses.field(default_factory=dict)
    memory: int = DEFAULT_BYTES


_state = _State()


def begin(slot: mmap.mmap, task: int, spoilt: Mapping[int, str], memory: int) -> None:
    """Called by a worker before each task; `spoilt` are the items that ended a worker before, with their reasons."""
    _state.slot, _state.task, _state.spoilt, _state.memory = slot, task, spoilt, memory
    _mark(IDLE)


@contextlib.contextmanager
def watch(item: int) -> Iterator[None]:
    """Reads one item of the task under the limits.

    Raises:
      Reject: memory_limit; or the reason for which this item ended a worker before: time_limit, worker_crash.
    """
    if item in _state.spoilt:
        raise Reject(_state.spoilt[item])
    _mark(item)
    try:
        yield
    except MemoryError as error:
        raise Reject("memory_limit", str(error)) from error
    finally:
        _mark(IDLE)


def check_memory(size: int) -> None:
    """Rejects a file whose header asks for more memory than a file may have, before anything is allocated."""
    if size > _state.memory:
        raise Reject("memory_limit", f"{size} bytes")


def _mark(item: int) -> None:
    if _state.slot is not None:
        SLOT.pack_into(_state.slot, 0, _state.task, item, time.monotonic())
