"""A profile of chosen steps: what device and host did, and when."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path

from absl import logging
import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from radnet_jax import distributed
from radnet_jax.errors import UserError

FOLDER = "profile"
MOST = 100  # steps; a trace grows by megabytes with each


def check(config: ConfigDict) -> None:
    """Refuses steps that the run does not have, and more than a trace can hold."""
    first, count = config.profile.start, config.profile.steps
    if first < 0 or not 0 <= count <= MOST:
        raise UserError(
            "config.profile",
            got=f"start={first}, steps={count}",
            expected=f"start of at least 0, steps from 0 (no profile) to {MOST}",
        )
    if count and first + count > config.total_steps:
        raise UserError(
            "config.profile is of steps that the run does not have",
            got=f"steps {first} to {first + count - 1}",
            expected=f"steps from 0 to {config.total_steps - 1}, the last of total_steps",
        )


class Profile:
    """Traces the steps `start`, ..., `start + steps - 1`, or those of them that this sitting does; first process only.

    The first step of a sitting holds its compilation.
    """

    def __init__(self, config: ConfigDict, workdir: Path):
        wanted = range(config.profile.start, config.profile.start + config.profile.steps)
        self._wanted = wanted if distributed.is_first() else range(0)
        self._folder = workdir / FOLDER
        self._first: int | None = None  # of the trace that is under way

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Names a step in the trace, and starts the trace where it is the first wanted one."""
        if number in self._wanted and self._first is None:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of Python would be in it: slow, and of no use here
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
            self._first = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def end(self, number: int, outputs: PyTree) -> None:
        """Ends the trace after its last step, whose `outputs` are waited for."""
        if self._first is not None and number + 1 not in self._wanted:
            jax.block_until_ready(outputs)
            self._stop(number)

    def _stop(self, number: int) -> None:
        first, self._first = self._first, None
        jax.profiler.stop_trace()
        newest = max((self._folder / "plugins" / "profile").iterdir(), key=lambda p: p.stat().st_mtime)
        logging.info(
            "profile of steps %d to %d: open %s at https://ui.perfetto.dev (it is read in the browser, not uploaded), "
            "or all of it with `pip install xprof` and `xprof --logdir=%s`",
            *(first, number, newest / "perfetto_trace.json.gz", self._folder),
        )

    def close(self) -> None:
        """Ends a trace that a stop has cut short."""
        if self._first is not None:
            self._first = None
            jax.profiler.stop_trace()
