"""Metrics to a JSONL file, a progress line and sinks. The loop touches the device's values only through here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import os
from pathlib import Path
import time
from typing import IO, Any

import jax
import numpy as np
from rich.console import Console

from radnet_jax import distributed
from radnet_jax.goodput import Goodput, shares
from radnet_jax.sinks import Sink

METRICS_FILE = "metrics.jsonl"


class Writer:
    """Writes scalars of a run: `metrics.jsonl` in the workdir, one progress line on the console, and sinks.

    Values are fetched one interval late: `write` keeps the device arrays of this interval and writes those of the one
    before, which are ready by then, so that the device never waits for the log.

    Only process 0 writes.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        total_steps: int,
        batch_size: int,
        goodput: Goodput,
        start: int = 0,
        label: str = "",
        open_sinks: Callable[[int], Sequence[Sink]] = lambda logged: (),
    ):
        """Opens the file, without rows past `start`: what was done after the last save is done again.

        Args:
          workdir: of the run.
          total_steps: of the run.
          batch_size: global.
          goodput: of the run; it is told the time that went into those rows, and gives the shares of each interval.
          start: step that the run goes on from.
          label: the run's name.
          open_sinks: from the last step that was written before to what else takes the values.
        """
        self._total = total_steps
        self._batch_size = batch_size
        self._label = label
        self._goodput = goodput
        self._pending: tuple[int, dict[str, jax.Array], dict[str, float]] | None = None
        self._file: IO[str] | None = None
        self._sinks: Sequence[Sink] = ()
        self._console = Console(stderr=True, highlight=False)
        if distributed.is_first():
            path = Path(workdir) / METRICS_FILE
            dropped = _drop_after(path, start)
            if dropped:
                goodput.add({"lost": max(dropped[-1]["seconds"] - goodput.earlier, 0.0)})
            self._file = path.open("a")
            self._sinks = open_sinks(dropped[-1]["step"] if dropped else start)
        goodput.interval()
        self._last = (start, time.perf_counter())

    def write(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Hands over the metrics of `step` and writes the ones handed over before."""
        self.flush()
        # A full barrier would stall the device; the time between two calls is what the user sees as speed.
        last_step, last_time = self._last
        now = time.perf_counter()
        seconds = max(now - last_time, 1e-9)
        speed = {
            "examples_per_s": (step - last_step) * self._batch_size / seconds,
            "seconds_per_step": seconds / max(step - last_step, 1),
            **{f"share_{part}": share for part, share in shares(self._goodput.interval()).items() if part != "lost"},
            "seconds": sum(self._goodput.seconds().values()),
        }
        self._last = (step, now)
        self._pending = (step, dict(metrics), speed)

    def flush(self) -> None:
        """Writes what was handed over last; blocks until the device has computed it."""
        if self._pending is None:
            return
        step, metrics, speed = self._pending
        self._pending = None
        values = {k: float(np.asarray(v)) for k, v in metrics.items()}
        if self._file is None:
            return
        row = values | {k: round(v, 6) for k, v in speed.items()}
        self._file.write(
            json.dumps({"step": step, **{k: v if np.isfinite(v) else None for k, v in row.items()}}) + "\n"
        )
        self._file.flush()
        for sink in self._sinks:
            sink.write(step, {k: v for k, v in row.items() if np.isfinite(v)})
        self._progress(step, values, speed)

    def _progress(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        left = (self._total - step) * speed["seconds_per_step"]
        line = (
            f"{self._label} step {step}/{self._total}  loss {values.get('loss', float('nan')):.4f}  "
            f"{speed['examples_per_s']:.0f} examples/s  input wait {100 * speed['share_input_wait']:.1f} %  "
            f"ETA {int(left) // 60}:{int(left) % 60:02d}"
        )
        last = step >= self._total
        if self._console.is_terminal:
            self._console.print(line.ljust(self._console.width - 1), end="\n" if last else "\r", soft_wrap=True)
        else:
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
            for sink in self._sinks:
                sink.close()
            self._sinks = ()


def _drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Drops rows past the step that a run goes on from (and a half-written last row), so that no step stands twice.

    Returns:
      The whole ones of the dropped rows.
    """
    if not path.is_file():
        return []
    kept, dropped = [], []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            if row["step"] <= step:
                kept.append(line)
            else:
                dropped.append(row)
        except (json.JSONDecodeError, KeyError):
            continue
    beside = path.with_suffix(".unfinished")
    beside.write_text("".join(line + "\n" for line in kept))
    os.replace(beside, path)
    return dropped
