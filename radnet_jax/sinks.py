"""Where the curves of a run go beside `metrics.jsonl`: TensorBoard and Weights & Biases, each where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import importlib.util
import os
from pathlib import Path
import time
from typing import Any, Protocol
import uuid

from absl import logging

from radnet_jax.errors import UserError, nearest

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # by name of the sink, which is also its extra
_FINISH_TIMEOUT = 60  # seconds that a run waits for what was not uploaded yet


class Sink(Protocol):
    """Takes the values of logged steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check(names: Sequence[str]) -> None:
    """Refuses unknown sinks, ones whose package is missing, and Weights & Biases where nobody is logged in.

    Raises:
      UserError: any of these.
    """
    for name in names:
        if name not in PACKAGES:
            raise UserError(
                f"config.sinks: {name!r}{nearest(str(name), PACKAGES)}",
                expected=f"of {', '.join(PACKAGES)}",
                fix="several are given as --config.sinks=\"('tensorboard', 'wandb')\"",
            )
        spec = importlib.util.find_spec(PACKAGES[name])
        if spec is None or spec.origin is None:  # without an origin: a folder of that name, such as W&B's own
            raise UserError(
                f"config.sinks has {name!r}, and the package {PACKAGES[name]} is not installed",
                fix=f"pip install 'radnet_jax[{name}]', or take it out of config.sinks",
            )
    if "wandb" in names and os.environ.get("WANDB_MODE", "online") in ("online", "shared"):
        import wandb

        known = True
        with contextlib.suppress(wandb.Error):  # a service that does not answer is told of when the sink is opened
            known = wandb.login(prompt=False)
        if not known:
            raise UserError(
                "config.sinks has 'wandb', and nobody is logged in to Weights & Biases here",
                fix="`wandb login`, or WANDB_MODE=offline, which keeps the curves in the workdir for `wandb sync`",
            )


def open_sinks(
    names: Sequence[str], workdir: Path, *, start: int, logged: int, label: str, config: Mapping[str, Any]
) -> list[Sink]:
    """Opens the sinks of a run. One that fails, now or later, is left out with a warning: curves stop no training.

    Args:
      names: of `PACKAGES`, checked.
      workdir: of the run; its curves are below it, and are continued there.
      start: step that the run goes on from. What TensorBoard was given of later steps is taken back.
      logged: last step that was written before. Weights & Biases takes nothing back, and is given later steps only.
      label: the run's name.
      config: of the run, fit to be published.
    """
    openers: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: _TensorBoard(workdir, start),
        "wandb": lambda: _WeightsAndBiases(workdir, logged, label, config),
    }
    return [_Guarded(name, openers[name]) for name in names]


class _Guarded:
    """A sink that warns once where it fails, and is not used any more."""

    def __init__(self, name: str, opener: Callable[[], Sink]):
        self._name = name
        self._sink: Sink | None = None
        self._attempt(lambda: setattr(self, "_sink", opener()))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        sink = self._sink
        if sink is not None:
            self._attempt(lambda: sink.write(step, values))

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._attempt(sink.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # these packages raise types of their own, and of the network's
            self._sink = None
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            logging.warning(
                "sink %s failed (%s: %s) and is left out from here on; metrics.jsonl has everything",
                self._name,
                type(error).__name__,
                reason,
            )


class _TensorBoard:
    """Event files in `workdir/tensorboard`, one for each sitting.

    Written at once and in this thread: tensorboardX's SummaryWriter hands over to a thread, and waits for ever where
    that one has ended with an error.
    """

    def __init__(self, workdir: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        # A file name has the second and this suffix: a sitting that follows at once must not overwrite it.
        self._writer = EventsWriter(str(folder / "events"), f".{start}.{os.getpid()}")
        begun = SessionLog(status=SessionLog.START)  # its reader forgets what it was given of this step and later ones
        self._writer.write_event(Event(step=start + 1, wall_time=time.time(), session_log=begun))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.write_event(Event(step=step, wall_time=time.time(), summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of Weights & Biases with its files in `workdir/wandb`; WANDB_MODE, WANDB_PROJECT and so on hold.

    Told are the curves, the run's name and its public config: no command line, code, paths, console or machine.
    """

    def __init__(self, workdir: Path, logged: int, label: str, config: Mapping[str, Any]):
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            finish_timeout=_FINISH_TIMEOUT,
            program="radnet_jax",
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._logged = logged
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "radnet_jax"),
            id=_run_id(workdir / "wandb"),
            name=label or None,
            dir=str(workdir),
            resume="allow",
            config=dict(config),
            settings=settings,
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._logged:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(folder: Path) -> str:
    """Returns the workdir's id at Weights & Biases, so that each sitting goes on with the same curves."""
    path = folder / "run_id"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()
