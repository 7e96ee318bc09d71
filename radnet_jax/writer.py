"""Metrics to a JSONL file and a progress line. The loop touches the device's values only through here."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import time
from typing import IO

import jax
import numpy as np
from rich.console import Console

METRICS_FILE = "metrics.jsonl"


class Writer:
    """Writes scalars of a run: `metrics.jsonl` in the workdir, and one progress line on the console.

    Values are fetched one interval late: `write` keeps the device arrays of this interval and writes those of the one
    before, which are ready by then, so that the device never waits for the log.

    Only process 0 writes.
    """

    def __init__(self, workdir: str | Path, *, total_steps: int, batch_size: int, start: int = 0, label: str = ""):
        self._total = total_steps
        self._batch_size = batch_size
        self._label = label
        self._pending: tuple[int, dict[str, jax.Array], dict[str, float]] | None = None
        self._file: IO[str] | None = None
        self._console = Console(stderr=True, highlight=False)
        self._last = (start, time.perf_counter())
        self._input_wait = 0.0
        if jax.process_index() == 0:
            path = Path(workdir) / METRICS_FILE
            _drop_after(path, start)
            self._file = path.open("a")

    def add_input_wait(self, seconds: float) -> None:
        """Counts the time that the loop stood waiting for its next batch."""
        self._input_wait += seconds

    def write(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Hands over the metrics of `step` and writes the ones handed over before."""
        self.flush()
        # A full barrier would stall the device; the time between two calls is what the user sees as speed.
        last_step, last_time = self._last
        now = time.perf_counter()
        seconds = max(now - last_time, 1e-9)
        speed = {
            "examples_per_s": (step - last_step) * self._batch_size / seconds,
            "input_wait": self._input_wait / seconds,
            "seconds_per_step": seconds / max(step - last_step, 1),
        }
        self._last, self._input_wait = (step, now), 0.0
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
        row = {"step": step, **values, **{k: round(v, 6) for k, v in speed.items()}}
        self._file.write(json.dumps({k: v if v == v else None for k, v in row.items()}) + "\n")
        self._file.flush()
        self._progress(step, values, speed)

    def _progress(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        left = (self._total - step) * speed["seconds_per_step"]
        line = (
            f"{self._label} step {step}/{self._total}  loss {values.get('loss', float('nan')):.4f}  "
            f"{speed['examples_per_s']:.0f} examples/s  input wait {100 * speed['input_wait']:.1f} %  "
            f"ETA {int(left) // 60}:{int(left) % 60:02d}"
        )
        last = step >= self._total
        if self._console.is_terminal:
            self._console.print(line.ljust(self._console.width - 1), end="\n" if last else "\r", soft_wrap=True)
        else:
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def _drop_after(path: Path, step: int) -> None:
    """Drops rows past the step that a run goes on from (and a half-written last row), so that no step stands twice."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    path.write_text("".join(line + "\n" for line in kept))
