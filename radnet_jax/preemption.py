"""Stopping when the machine is taken away: save, then stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
from types import FrameType
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils

from radnet_jax.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what clusters send before they kill; USR1 is Slurm's usual choice


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
    """Catches the signals that ask to stop; gives a function of the step that tells whether one came.

    With several processes all of them agree on the step at which they stop, whichever got the signal: the coordination
    service that `jax.distributed.initialize` started listens to SIGTERM and to the platform's notice, and the function
    must be called by each process at every step. A second signal ends the process at once (with several processes: a
    second SIGUSR1).
    """
    told: list[str] = []
    before: dict[int, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(signal.Signals(number).name)
        logging.warning("%s: saving, then stopping", told[-1])
        signal.signal(number, before[number])

    several = jax.process_count() > 1
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS if not several else SIGNALS[1:]:
            before[number] = signal.signal(number, handler)
    try:
        yield (lambda step: _all_agree(step, bool(told))) if several else (lambda step: bool(told))
    finally:
        for caught, old in before.items():
            signal.signal(caught, old)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises Preempted where a signal that asks to stop comes outside of `watch`: between runs, and in short ones."""

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        raise Preempted(f"{signal.Signals(number).name} came")

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
        for number in SIGNALS:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for caught, old in before.items():
            signal.signal(caught, old)


def _all_agree(step: int, told: bool) -> bool:
    if told:  # hand a signal that only this process got to the service that all of them ask
        signal.raise_signal(signal.SIGTERM)
    return bool(multihost_utils.reached_preemption_sync_point(step))
