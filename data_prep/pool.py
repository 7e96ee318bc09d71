"""An ordered map over tasks in worker processes that are watched: a file that hangs or crashes costs that file only.

When a worker dies or takes too long over an item, the item is marked, a new worker does the task again without it, and
the build goes on. Nothing is sent for each file, so that watching costs nothing.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import mmap
from multiprocessing.connection import Connection, wait
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from data_prep.guard import IDLE, SLOT, Limits
from data_prep.hashing import SALT_VARIABLE
from data_prep.plan import OrderedMap
from radnet_jax.errors import UserError

TASKS_AHEAD = 4  # for each worker: enough to keep it busy, few enough to hold in memory
_POLL_SECONDS = 0.25
_MAX_ATTEMPTS = 3


@dataclasses.dataclass
class _Job:
    serial: int
    message: tuple[Callable[[Any], Any], Any]
    spoilt: dict[int, str] = dataclasses.field(default_factory=dict)
    attempts: int = 0
    done: bool = False
    result: Any = None


class _Worker:
    """One worker process and what it has to do."""

    def __init__(self) -> None:
        self.salt = os.environ.get(SALT_VARIABLE)  # as the process sees it from now on
        ours, theirs = socket.socketpair()
        with ours, theirs, tempfile.TemporaryFile() as file:
            file.truncate(SLOT.size)
            self.slot = mmap.mmap(file.fileno(), SLOT.size)
            SLOT.pack_into(self.slot, 0, -1, IDLE, 0.0)
            threads = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "data_prep.worker", str(theirs.fileno()), str(file.fileno())],
                pass_fds=(theirs.fileno(), file.fileno()),
                env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # decoders print what they choke on
                stderr=subprocess.DEVNULL,
            )
            self.connection = Connection(ours.detach())
        self.owner = os.getpid()
        self.last = (-1, IDLE)
        self.job: _Job | None = None  # one at a time: with a second in the socket both ends could wait for each other

    def give(self, job: _Job, limits: Limits) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # a dead worker is noticed by its silence
            self.connection.send_bytes(pickle.dumps((job.serial, *job.message, job.spoilt, limits.memory)))

    def overtime(self, limits: Limits) -> bool:
        """Whether the worker has been at one item for too long; read twice, since the slot changes under the reader."""
        seen = SLOT.unpack_from(self.slot)
        if seen[1] == IDLE or time.monotonic() - seen[2] < limits.seconds:
            return False
        time.sleep(0.01)
        return SLOT.unpack_from(self.slot) == seen

    def end(self) -> tuple[int, int]:
        """Ends the process; returns the task and the item that it was at."""
        if not self.slot.closed:
            self.process.kill()
            self.process.wait()
            self.last = SLOT.unpack_from(self.slot)[:2]
            self.connection.close()
            self.slot.close()
        return self.last


_idle: list[_Worker] = []  # kept for the next build of this process: starting one takes a second


@atexit.register
def _end_idle() -> None:
    while _idle:
        if (worker := _idle.pop()).owner == os.getpid():
            worker.end()


def _hire() -> _Worker:
    while True:
        try:
            worker = _idle.pop()
        except IndexError:  # none, or another thread was faster
            return _Worker()
        if worker.owner == os.getpid():
            if worker.process.poll() is None and worker.salt == os.environ.get(SALT_VARIABLE):
                return worker
            worker.end()


@contextlib.contextmanager
def ordered_map(workers: int, limits: Limits) -> Iterator[OrderedMap]:
    """Yields a map that runs functions in `workers` watched processes and keeps the order of its input."""
    crew = [_hire() for _ in range(workers)]

    def mapped(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return _map(crew, limits, function, iter(tasks))

    try:
        yield mapped
    finally:
        for worker in crew:
            if worker.job or worker.process.poll() is not None:
                worker.end()
            else:
                _idle.append(worker)


def _map(crew: list[_Worker], limits: Limits, function: Callable[[Any], Any], tasks: Iterator[Any]) -> Iterator[Any]:
    pending: deque[_Job] = deque()  # all that is begun, in the order of the tasks
    waiting: deque[_Job] = deque()  # of these, the ones that no worker has
    serial = 0
    while True:
        while len(pending) < TASKS_AHEAD * len(crew) and (task := next(tasks, _END)) is not _END:
            pending.append(_Job(serial, (function, task)))
            waiting.append(pending[-1])
            serial += 1
        for worker in crew:
            if waiting and worker.job is None:
                worker.give(waiting.popleft(), limits)
        if not pending:
            return
        if pending[0].done:
            yield pending.popleft().result
            continue
        ready = wait([worker.connection for worker in crew], _POLL_SECONDS)
        for place, worker in enumerate(crew):
            if worker.connection in ready and _collect(worker):
                continue
            dead = worker.connection in ready
            if dead or worker.overtime(limits):
                task, item = worker.end()
                if job := worker.job:
                    worker.job = None
                    _blame(job, task, item, "worker_crash" if dead else "time_limit")
                    waiting.appendleft(job)
                crew[place] = _Worker()


_END = object()


def _collect(worker: _Worker) -> bool:
    """Takes a result; False where the worker is dead. An error of the task itself is raised here."""
    try:
        good, value = pickle.loads(worker.connection.recv_bytes())
    except (EOFError, OSError):
        return False
    job, worker.job = worker.job, None
    if not good:
        error, text = value
        if error is not None:
            raise error
        raise RuntimeError(f"a worker of the build failed (what it said may quote a file and is left out):\n{text}")
    assert job is not None
    job.done, job.result = True, value
    return True


def _blame(job: _Job, task: int, item: int, reason: str) -> None:
    """Marks the item at which a worker ended, so that the next one leaves it out."""
    if item != IDLE and job.serial == task:
        job.spoilt[item] = reason
        return
    job.attempts += 1
    if job.attempts == _MAX_ATTEMPTS:
        raise UserError(
            "a worker process of the build died again and again, perhaps for want of memory",
            fix="start again with fewer --workers: the build goes on where it was",
        )
