"""Where the wall time of a run went: the host is always in exactly one part, so that the shares add to 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import time
from typing import Any, TypeVar

T = TypeVar("T")

PARTS = {
    "steps": "steps",
    "input_wait": "waiting for input",
    "save": "saving",
    "compile": "compiling",
    "evaluation": "evaluation",
    "phases": "phases between steps",
    "lost": "lost steps",
    "other": "other",
}
"""Parts of the time, and what a user calls them.

The device works while the host goes on, so each part says where the host was:
  steps: in the loop, handing work to the device or waiting for it, and whatever overlaps with that.
  input_wait: waiting for the next batch while the device had nothing left to do. The rest of a wait costs nothing.
  save: copying the state off the device, and waiting for the disk where the loop has to.
  compile: making the initial state, and the first step up to its dispatch.
  evaluation: predictions on whole splits, with their own compilation, and metrics.
  phases: work between steps that an objective declares, clustering for instance, with its compilation.
  lost: steps of earlier sittings that were not saved and had to be done again, as far as they were logged.
  other: start-up, restoring, the record of the run.
"""


class Goodput:
    """A stopwatch with parts. One thread uses it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "other", clock()
        self._reported = dict(self._seconds)
        self.earlier = 0.0  # seconds of earlier sittings
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="goodput")
        self._done: Future[float] | None = None

    @contextlib.contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """Counts the time inside as `part`; of nested ones the innermost counts."""
        outer = self._enter(part)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, part: str) -> str:
        now = self._clock()
        self._seconds[self._part] += now - self._since
        outer, self._part, self._since = self._part, part, now
        return outer

    def dispatched(self, output: Any) -> None:
        """Says that the device was given work whose last result is `output` (with `block_until_ready`)."""

        def wait() -> float:
            output.block_until_ready()
            return self._clock()

        self._done = self._watcher.submit(wait)

    def next(self, batches: Iterator[T]) -> T:
        """Returns the next batch; the wait is of the input from when the device had done all that it was given."""
        with self.spent_on("input_wait"):
            began = self._since
            batch = next(batches)
        waited = self._since - began
        if self._done is not None:
            busy = self._done.result() - began if self._done.done() else waited
            busy = min(max(busy, 0.0), waited)
            self._seconds["input_wait"] -= busy
            self._seconds[self._part] += busy
        return batch

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts time of earlier sittings."""
        self.earlier += sum(seconds.values())
        for part, value in seconds.items():
            self._seconds[part] += value
            self._reported[part] += value

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part, of all sittings."""
        self._enter(self._part)
        return dict(self._seconds)

    def interval(self) -> dict[str, float]:
        """Returns the seconds of each part since the last call."""
        seconds = self.seconds()
        spent = {part: value - self._reported[part] for part, value in seconds.items()}
        self._reported = seconds
        return spent

    def close(self) -> None:
        self._watcher.shutdown(wait=False)


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns each part's share of the sum."""
    total = sum(seconds.values())
    return {part: value / total if total else 0.0 for part, value in seconds.items()}


def in_words(seconds: Mapping[str, float]) -> str:
    """Returns one line such as "91 % steps, 5 % compiling, 4 % other"; parts below half a percent are left out."""
    largest = sorted(shares(seconds).items(), key=lambda item: -item[1])
    return ", ".join(f"{100 * share:.0f} % {PARTS[part]}" for part, share in largest if share >= 0.005)
