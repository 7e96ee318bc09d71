"""Limits of time and memory under which each file is read.

A worker process says in a few shared bytes which item it is reading and since when; the process that watches it ends a
worker that takes too long (`pool.py`). Outside a worker only `MemoryError` is caught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import errno
import mmap
import struct
import time

from data_prep.spec import Reject
from radnet_jax.errors import UserError

SLOT = struct.Struct("<qqd")  # task, item (-1 = between items), start of the item on the monotonic clock
IDLE = -1
_OURS = (errno.EMFILE, errno.ENFILE)  # too many open files: no fault of the one that is read
DEFAULT_SECONDS = 60.0
DEFAULT_BYTES = 4 << 30
_SECONDS = (0.5, 86400.0)  # workers are looked at every quarter of a second
_GIBIBYTES = (0.0625, 65536.0)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may cost: seconds on the wall clock, bytes of memory above what a worker has at rest."""

    seconds: float = DEFAULT_SECONDS
    memory: int = DEFAULT_BYTES

    def told(self) -> dict[str, float]:
        """The limits as JSON."""
        return {"seconds": self.seconds, "memory": self.memory}


def make_limits(seconds: float, gibibytes: float) -> Limits:
    """The limits that a user gives.

    Raises:
      UserError: less than reading any file takes, or more than a system can count.
    """
    for name, value, (low, high), unit in (
        ("time_limit", seconds, _SECONDS, "seconds"),
        ("memory_limit", gibibytes, _GIBIBYTES, "GiB"),
    ):
        if not low <= value <= high:
            raise UserError(f"limits of a file: {name}", got=f"{value:g}", expected=f"{low:g} to {high:g} {unit}")
    return Limits(seconds, int(gibibytes * 2**30))


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
      Reject: memory_limit; unreadable, where the system gave an error; or the reason for which this item ended a worker
        before: time_limit, worker_crash.
    """
    if item in _state.spoilt:
        raise Reject(_state.spoilt[item])
    _mark(item)
    try:
        yield
    except MemoryError as error:
        raise Reject("memory_limit", str(error)) from error
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise Reject("memory_limit" if error.errno == errno.ENOMEM else "unreadable", str(error)) from error
    finally:
        _mark(IDLE)


def check_memory(size: int) -> None:
    """Rejects a file whose header asks for more memory than a file may have, before anything is allocated."""
    if size > _state.memory:
        raise Reject("memory_limit", f"{size} bytes")


def _mark(item: int) -> None:
    if _state.slot is not None:
        SLOT.pack_into(_state.slot, 0, _state.task, item, time.monotonic())
