"""The tasks of a build on Apache Beam: a cluster (Dataflow, Flink, Spark) runs them, not the processes of one machine.

Beam only says who does what. Units and their outcomes are files in a folder that all machines see, so that the job
graph stays small, nothing of the data passes through the runner, and a build that was killed goes on at the units that
are not done. On its worker each unit runs in a watched process (`pool.py`), as it does on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import functools
import io
import os
from pathlib import Path
import pickle
import shlex
import tempfile
from typing import Any

from data_prep.guard import Limits
from data_prep.plan import OrderedMap
from data_prep.pool import ordered_map
from data_prep.shards import ShardTask
from data_prep.units import Outcome, Places, Unit, brought_home, make_unit, run_unit
from radnet_jax.data import storage
from radnet_jax.errors import UserError, nearest


def beam_map(options: str, places: Places, work: Path, limits: Limits) -> OrderedMap:
    """A map that runs tasks as units on a Beam runner and keeps the order of its input.

    Args:
      options: of Beam, as on its own command lines ("--runner=DataflowRunner --project=..."); "" = its local runner.
      places: where the files of the build are; units and outcomes go below `out`, which all machines must see.
      work: the build's working folder on this machine.
      limits: of each file.

    Raises:
      UserError: Beam is not installed, options that it does not take; while mapping, a pipeline that failed.
    """
    pipeline = check_beam(options)
    exchange = storage.join(places.out, ".build/beam") if storage.is_remote(places.out) else str(work / "beam")

    def mapped(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        folder = _join(exchange, function.__name__)
        units, missing = 0, []
        for number, task in enumerate(tasks):
            units += 1
            if not _is_done(folder, number, task, places):
                _write(_join(folder, f"{number:06d}.unit"), pickle.dumps(make_unit(function, task, places)))
                missing.append(number)
        if missing:
            _run(pipeline, functools.partial(run_numbered, folder, limits), missing)
        for number in range(units):
            yield brought_home(_outcome(folder, number), work)

    return mapped


def run_numbered(folder: str, limits: Limits, number: int) -> None:
    """What a worker does: reads a unit, runs it in a watched process, writes its outcome."""
    data = _read(_join(folder, f"{number:06d}.unit"))
    if data is None:
        raise UserError("a worker does not see the folder of the build", fix="give --out a folder that all see")
    unit: Unit = pickle.loads(data)
    with tempfile.TemporaryDirectory(prefix="radnet_jax_") as scratch, ordered_map(1, limits) as mapped:
        (outcome,) = mapped(run_unit, [dataclasses.replace(unit, scratch=scratch)])
    _write(_join(folder, f"{number:06d}.outcome"), pickle.dumps(outcome))


def _outcome(folder: str, number: int) -> Outcome:
    data = _read(_join(folder, f"{number:06d}.outcome"))
    if data is None:
        raise UserError(
            "a worker wrote its outcome where this machine does not see it", fix="give --out a folder that all see"
        )
    return pickle.loads(data)


def _is_done(folder: str, number: int, task: Any, places: Places) -> bool:
    """Whether an earlier run finished the unit and, if it is a shard, wrote it with this salt and it is still whole."""
    data = _read(_join(folder, f"{number:06d}.outcome"))
    if data is None or not isinstance(task, ShardTask):
        return data is not None
    result = pickle.loads(data).result
    return result.salt == task.salt.fingerprint() and _size(_join(places.out, task.file_name)) == result.size


def check_beam(options: str) -> Callable[[], Any]:
    """A function that makes pipelines; checks Beam and its options."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            "--runner=beam needs Apache Beam",
            fix="in an environment of its own: pip install -c constraints-beam.txt 'radnet_jax[beam]'",
        ) from error
    try:
        flags = shlex.split(options)
    except ValueError as error:
        raise UserError("--beam_options can't be used", got=options, expected="quotes in pairs") from error
    if stray := [flag for flag in flags if not flag.startswith("-")]:
        raise UserError("--beam_options", got=repr(stray[0]), expected="flags such as --runner=DirectRunner")
    known = {name for kind in PipelineOptions.__subclasses__() for name in kind().get_all_options()}
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        if name not in known and name.removeprefix("no_") not in known:
            raise UserError(f"--beam_options has a flag that Beam does not know: --{name}{nearest(name, known)}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # argparse explains itself at length
            parsed = PipelineOptions(flags)
            parsed.get_all_options()
            create_runner(parsed.view_as(StandardOptions).runner or "DirectRunner")
    except (SystemExit, ValueError, ImportError, AttributeError) as error:
        raise UserError("--beam_options can't be used", got=options) from error
    return functools.partial(beam.Pipeline, options=parsed)


def _run(pipeline: Callable[[], Any], function: Callable[[int], None], numbers: list[int]) -> None:
    import apache_beam as beam

    try:
        with pipeline() as root:
            _ = root | beam.Create(numbers) | beam.Reshuffle() | beam.Map(function)
    except UserError:
        raise
    except Exception as error:  # each runner has errors of its own; what they say can quote a file
        raise UserError(
            "the Beam pipeline failed",
            got=type(error).__name__,
            fix="its runner's log tells more; the same command goes on where it was",
        ) from error


def _join(folder: str, name: str) -> str:
    return storage.join(folder, name) if storage.is_remote(folder) else os.path.join(folder, name)


def _read(path: str) -> bytes | None:
    if storage.is_remote(path):
        return storage.read_bytes(path)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def _write(path: str, data: bytes) -> None:
    if storage.is_remote(path):
        return storage.write_bytes(path, data)
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = Path(f"{path}.{os.getpid()}.unfinished")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def _size(path: str) -> int | None:
    if storage.is_remote(path):
        return storage.size(path)
    return os.path.getsize(path) if os.path.isfile(path) else None
