"""Tasks that run where neither the plan nor perhaps the files are: on a worker of a cluster, or over an object store.

A unit is a task of the build with all that is needed to run it anywhere: its rows in place of the plan, the names of
the raw files that it reads, where its results go. It holds paths and identifiers, as the plan does, but not the salt:
the machine that runs it reads the same salt file.

Where source or out is a URL (gs://, s3://, ...), files come to a scratch folder and results go back from there, so that
the functions of a dataset see local files only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import os
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

from data_prep.hashing import PUBLIC_SALT, Salt, given_salt
from data_prep.plan import OrderedMap, Plan
from data_prep.shards import PLAN_FILE, ShardResult, ShardTask
from data_prep.spec import Candidate, DatasetSpec
from radnet_jax import __version__
from radnet_jax.data import storage
from radnet_jax.errors import UserError

HeaderTask = tuple[DatasetSpec, str, list[Candidate]]


class Places(NamedTuple):
    """Where the files of a build are.

    Attributes:
      source: of the raw files, folder or URL.
      out: of the dataset, folder or URL.
      salt_file: where each machine reads the salt; "" = where its environment says.
    """

    source: str
    out: str
    salt_file: str

    def remote(self) -> bool:
        return storage.is_remote(self.source) or storage.is_remote(self.out)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A task with all that it needs.

    Attributes:
      version: of this package where the unit was made.
      function: `read_rows` or `write_shard`.
      task: its argument, without the salt.
      salt: fingerprint of the salt, and whether it is the public one.
      places: where files are.
      reads: raw files below the source, for a remote source.
      before: what an earlier run left of this task in the work folder, by name.
      scratch: folder for files on their way; whoever made it deletes it, also after a worker was killed.
    """

    version: str
    function: Callable[[Any], Any]
    task: HeaderTask | ShardTask
    salt: tuple[str, bool]
    places: Places
    reads: tuple[str, ...]
    before: dict[str, bytes]
    scratch: str = ""


class Outcome(NamedTuple):
    """What a unit's function returned, and what it left in the work folder of a machine that is not this one."""

    result: Any
    products: dict[str, bytes]


def make_unit(function: Callable[[Any], Any], task: HeaderTask | ShardTask, places: Places, scratch: str = "") -> Unit:
    """Makes the unit of a task whose source is a local folder, or the mirror of a remote one (`staging.mirror`)."""
    before: dict[str, bytes] = {}
    names: Iterable[str]
    if isinstance(task, ShardTask):
        source, salt = Path(task.source), task.salt
        with Plan(Path(task.work, PLAN_FILE)) as plan:
            rows = tuple(plan.rows(task.split, task.start, task.stop))
        known = (salt.fingerprint(), salt.kind == "public")
        before = {p.name: p.read_bytes() for p in (task.done_file, task.lines_file) if p.is_file()}
        task = dataclasses.replace(task, rows=rows, salt=Salt(b"", salt.kind, salt.name))
        names = (name for row in rows for name in (row.path, row.mask))
    else:
        source, known = Path(task[1]), ("", True)
        names = (name for candidate in task[2] for name in (candidate.path, *candidate.entry.values()))
    reads: tuple[str, ...] = ()
    if storage.is_remote(places.source):
        reads = tuple(dict.fromkeys(name for name in names if name and os.path.isfile(source / name)))
    return Unit(__version__, function, task, known, places, reads, before, scratch)


def run_unit(unit: Unit) -> Outcome:
    """Runs a unit on this machine; what it writes is whole or absent, so that running it twice does no harm.

    Raises:
      UserError: another version of this package, no such salt here, a store that can't be reached.
    """
    if unit.version != __version__:
        raise UserError("the workers have another version of radnet_jax", got=__version__, expected=unit.version)
    task, places = unit.task, unit.places
    with tempfile.TemporaryDirectory(dir=unit.scratch or None, prefix="radnet_jax_") as scratch:
        source, out, work = (Path(scratch, name) for name in ("source", "out", "work"))
        if storage.is_remote(places.source):
            storage.fetch(places.source, unit.reads, source)
        else:
            source = Path(task.source if isinstance(task, ShardTask) else task[1])
        if not isinstance(task, ShardTask):
            return Outcome(unit.function((task[0], str(source), task[2])), {})
        task = dataclasses.replace(task, source=str(source), salt=_salt(unit, task.salt))
        if not storage.is_remote(places.out):
            return Outcome(unit.function(task), {})
        for folder in (out, work):
            folder.mkdir()
        for name, data in unit.before.items():
            (work / name).write_bytes(data)
        task = dataclasses.replace(task, out=str(out), work=str(work))
        url = storage.join(places.out, task.file_name)
        if (there := storage.size(url)) is not None:
            with (out / task.file_name).open("wb") as file:
                file.truncate(there)  # stands for it: its size is all that is looked at
        finished = ShardResult.read(task)
        if finished is not None:
            return Outcome(finished, {})
        result = unit.function(task)
        storage.put(out / task.file_name, url)
        return Outcome(result, {p.name: p.read_bytes() for p in (task.lines_file, task.done_file)})


def _salt(unit: Unit, told: Salt) -> Salt:
    fingerprint, public = unit.salt
    salt = told if told.name else PUBLIC_SALT if public else given_salt(unit.places.salt_file)
    if salt is None or salt.fingerprint() != fingerprint:
        raise UserError(
            "a worker has another salt than the build", fix="give --salt_file a file that every worker can read"
        )
    return salt


def far(mapped: OrderedMap, places: Places, work: Path) -> OrderedMap:
    """A map that runs each task as a unit, by another map, and brings home what units leave in their work folder."""

    def run(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        with tempfile.TemporaryDirectory(prefix="radnet_jax_") as scratch:
            units = map(functools.partial(make_unit, function, places=places, scratch=scratch), tasks)
            for outcome in mapped(run_unit, units):
                yield brought_home(outcome, work)

    return run


def brought_home(outcome: Outcome, work: Path) -> Any:
    """Writes the products of a unit into the work folder of the build; returns its result."""
    for name, data in outcome.products.items():
        (work / f"{name}.unfinished").write_bytes(data)
        os.replace(work / f"{name}.unfinished", work / name)
    return outcome.result
