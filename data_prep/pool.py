"""An ordered map over tasks, in this process or in a pool of others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
from typing import Any

import cv2

from data_prep.plan import OrderedMap
from radnet_jax.errors import UserError

TASKS_AHEAD = 4  # for each worker: enough to keep it busy, few enough to hold in memory


@contextlib.contextmanager
def ordered_map(workers: int) -> Iterator[OrderedMap]:
    """Yields a map that keeps the order of its input; with one worker it runs here, lazily.

    Processes are spawned, not forked: a fork of a process with running threads (jax has some) can hang.
    """
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as executor:

        def mapped(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            running: deque[Future[Any]] = deque()
            try:
                for task in tasks:
                    running.append(executor.submit(function, task))
                    if len(running) >= TASKS_AHEAD * workers:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process of the build died, perhaps for want of memory",
                    fix="start again with fewer --workers: the build goes on where it was",
                ) from error
            finally:
                for future in running:
                    future.cancel()

        yield mapped


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
