"""A worker process: takes tasks from a socket, answers with their results, until the socket is closed.

Started by `pool.py` as `python -m data_prep.worker SOCKET SLOT`. It does not import the main module of the program that
builds, so that a script without a `__main__` guard can build too.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from multiprocessing.connection import Connection
import pickle
import resource
import signal
import sys
import traceback

import cv2

# Imported once, before the first task, and part of the memory at rest.
from data_prep import guard, plan, shards
from data_prep.ingest import dicom, image, nifti
from data_prep.ingest.dicom import display
from radnet_jax.errors import UserError

PRELOADED = (plan, shards, dicom, display, image, nifti)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Runs until the other end of the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the builder, which ends its workers
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    cv2.setNumThreads(1)  # the processes are the parallelism
    connection = Connection(int(sys.argv[1]))
    slot = mmap.mmap(int(sys.argv[2]), guard.SLOT.size)
    at_rest = _data_bytes()
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            serial, function, task, spoilt, memory = pickle.loads(message)
            _limit_memory(at_rest + memory)
            guard.begin(slot, serial, spoilt, memory)
            reply = pickle.dumps((True, function(task)))
        except BaseException as error:
            reply = _failure(error)
        connection.send_bytes(reply)


def _failure(error: BaseException) -> bytes:
    text = f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}"
    told = error if isinstance(error, OSError | UserError) else None
    return pickle.dumps((False, (told, text)))


def _data_bytes() -> int:
    """Private writable memory of this process: what RLIMIT_DATA counts."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


if __name__ == "__main__":
    main()
