"""The header pass: which files become records, in which split and order.

The plan is an SQLite file, so that memory stays flat in the number of files. It holds paths and identifiers: it lives
in the private working folder of an unfinished build and is deleted with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
import itertools
import json
import os
from pathlib import Path
import sqlite3
from typing import Any, NamedTuple, TypeVar

from data_prep.patients import Groups
from data_prep.spec import Candidate, DatasetSpec, Reject, Row
from data_prep.splits import Patient, assign, majority
from radnet_jax.errors import UserError

FILES_PER_TASK = 256
A = TypeVar("A")
B = TypeVar("B")
OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Rejected(NamedTuple):
    """file: index of the file in the scan; reason: code; path and detail are private."""

    file: int
    path: str
    reason: str
    detail: str


class PlannedRow(NamedTuple):
    """A row with its place: `order` counts the rows of its split, `file` the files of the scan."""

    order: int
    file: int
    path: str
    identity: str
    patient: str
    series: str
    slice: int
    label: int
    labels: tuple[int, ...]
    label_mask: tuple[int, ...]
    facts: Mapping[str, str | None]


_SCHEMA = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, path TEXT, identity TEXT UNIQUE, patient TEXT, stratum INTEGER,
  label INTEGER, labels TEXT, label_mask TEXT, series TEXT, position REAL, instance INTEGER, pool TEXT, facts TEXT);
CREATE TABLE rejected (id INTEGER PRIMARY KEY, path TEXT, reason TEXT, detail TEXT);
CREATE TABLE patients (patient TEXT PRIMARY KEY, split TEXT);
CREATE TABLE renamed (patient TEXT PRIMARY KEY, key TEXT);
CREATE TABLE joined (n INTEGER);
"""

# Series in the order of their first file; slices of a series along its normal if every slice has a position, else by
# their instance number. The order must not depend on the salt, so nothing is sorted by a hash.
_PLANNED = """
CREATE TABLE planned AS
WITH ordered AS (
  SELECT rows.*, split,
    CASE series WHEN '' THEN id ELSE MIN(id) OVER (PARTITION BY rows.patient, series) END AS first_id,
    MIN(position IS NOT NULL) OVER (PARTITION BY rows.patient, series) AS placed
  FROM rows JOIN patients USING (patient)),
sliced AS (
  SELECT *, CASE series WHEN '' THEN -1 ELSE ROW_NUMBER() OVER (
    PARTITION BY first_id ORDER BY CASE WHEN placed THEN position END, instance, id) - 1 END AS slice
  FROM ordered)
SELECT split, ROW_NUMBER() OVER (PARTITION BY split ORDER BY first_id, slice) - 1 AS ordinal,
  id, path, identity, patient, series, slice, label, labels, label_mask, facts
FROM sliced;
CREATE UNIQUE INDEX by_place ON planned (split, ordinal);
"""


def read_rows(task: tuple[DatasetSpec, str, list[Candidate]]) -> list[Row | tuple[str, str]]:
    """Header pass over some candidates: a Row each, or the (reason, detail) of its rejection."""
    spec, source, candidates = task
    rows: list[Row | tuple[str, str]] = []
    for candidate in candidates:
        try:
            rows.append(spec.row(Path(source), candidate))
        except Reject as reject:
            rows.append((reject.reason, reject.detail))
    return rows


def make_plan(
    path: Path,
    spec: DatasetSpec,
    source: Path,
    fractions: Mapping[str, float],
    seed: int,
    ordered_map: OrderedMap,
    progress: Callable[[int], None],
) -> None:
    """Reads the header of each candidate and writes the plan to `path`, which appears only when it is complete.

    Args:
      path: of the plan.
      spec: the dataset.
      source: folder of the raw files.
      fractions: {split: fraction}.
      seed: of the splits.
      ordered_map: applies a function to tasks, in order, perhaps in other processes.
      progress: called with the number of files read so far.

    Raises:
      UserError: no usable file (with the counts by reason), a patient in two official lists, or a split left empty.
    """
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    database = sqlite3.connect(unfinished)
    try:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        tasks = ((spec, str(source), chunk) for chunk in _chunks(spec.candidates(source)))
        counter = itertools.count()
        groups = Groups()
        for (_, _, chunk), results in _with_input(ordered_map, read_rows, tasks):
            for candidate, result in zip(chunk, results):
                _insert(database, next(counter), candidate, result, groups)
            progress(len(chunk))
        _refuse_nothing(database)
        _join(database, groups)
        assigned = assign(_patients(database, spec), fractions, seed)
        database.executemany("INSERT INTO patients VALUES (?, ?)", assigned.items())
        database.executescript(_PLANNED)
        database.commit()
    finally:
        database.close()
    os.replace(unfinished, path)


def _chunks(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    while chunk := list(itertools.islice(candidates, FILES_PER_TASK)):
        yield chunk


def _with_input(ordered_map: OrderedMap, function: Callable[[A], B], tasks: Iterator[A]) -> Iterator[tuple[A, B]]:
    """Pairs each task with its result; the map reads only a few tasks ahead, so the queue stays short."""
    queue: list[A] = []

    def remember() -> Iterator[A]:
        for task in tasks:
            queue.append(task)
            yield task

    for result in ordered_map(function, remember()):
        yield queue.pop(0), result


def _insert(
    database: sqlite3.Connection, index: int, candidate: Candidate, result: Row | tuple[str, str], groups: Groups
) -> None:
    if isinstance(result, Row):
        row = result
        patient = next(name for name in (row.patient, *row.links) if name)
        if row.links:
            groups.add((row.patient, *row.links))
        values = (
            index, row.path, row.identity, patient, row.stratum, row.label, json.dumps(row.labels),
            json.dumps(row.label_mask), row.series, row.position, row.instance, row.pool, json.dumps(dict(row.facts)),
        )  # fmt: skip
        marks = ", ".join("?" * len(values))
        if database.execute(f"INSERT OR IGNORE INTO rows VALUES ({marks})", values).rowcount:
            return
        if row.links:  # else it would depend on the order of the copies what is known of the patient
            kept = database.execute("SELECT patient FROM rows WHERE identity = ?", (row.identity,)).fetchone()
            groups.join(kept[0], patient)
        result = ("duplicate", "another file has the same instance")
    database.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", (index, candidate.path, *result))


def _join(database: sqlite3.Connection, groups: Groups) -> None:
    """Gives all rows of a group of linked names the group's key as their patient."""
    database.executemany("INSERT INTO renamed VALUES (?, ?)", groups.renamed())
    database.execute(
        "UPDATE rows SET patient = (SELECT key FROM renamed WHERE renamed.patient = rows.patient) "
        "WHERE patient IN (SELECT patient FROM renamed)"
    )
    database.execute("INSERT INTO joined VALUES (?)", (groups.several_patients(),))


def _refuse_nothing(database: sqlite3.Connection) -> None:
    if database.execute("SELECT 1 FROM rows LIMIT 1").fetchone():
        return
    counts = dict(database.execute("SELECT reason, COUNT(*) FROM rejected GROUP BY reason ORDER BY reason"))
    raise UserError(
        f"none of the {sum(counts.values())} files of the source is usable",
        got=reasons_text(counts) or "no files",
        fix="`python -m data_prep.build --dataset=NAME --help` tells what the source must look like",
    )


def reasons_text(counts: Mapping[str, int]) -> str:
    """Counts by reason as one line, the commonest first."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))


def _patients(database: sqlite3.Connection, spec: DatasetSpec) -> Iterator[Patient]:
    query = "SELECT patient, pool, stratum, COUNT(*) FROM rows GROUP BY patient, pool, stratum ORDER BY patient"
    for key, group in itertools.groupby(database.execute(query), key=lambda r: r[0]):
        found = list(group)
        pools = {pool for _, pool, _, _ in found}
        if len(pools) > 1:
            raise UserError(
                "a patient stands in several of the source's split lists",
                got=" and ".join(sorted(pools)),
                expected="lists that part no patient",
            )
        strata: Counter[int] = Counter()
        for _, _, stratum, n in found:
            strata[stratum] += n
        # Multi-label strata are ranks of rarity: the rarest finding a patient ever had places it.
        stratum = min(strata) if spec.task == "multi_label" else majority(strata)
        yield Patient(key, pools.pop(), stratum)


class Plan:
    """A finished plan, opened to read."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def sizes(self) -> dict[str, int]:
        """Planned rows of each split."""
        return dict(self._database.execute("SELECT split, COUNT(*) FROM planned GROUP BY split"))

    def files(self) -> int:
        """Files that the scan saw."""
        query = "SELECT (SELECT COUNT(*) FROM rows) + (SELECT COUNT(*) FROM rejected)"
        return int(self._database.execute(query).fetchone()[0])

    def left_out(self) -> int:
        """Usable files of lists or folders that none of the asked splits takes."""
        query = "SELECT COUNT(*) FROM rows WHERE patient NOT IN (SELECT patient FROM patients)"
        return int(self._database.execute(query).fetchone()[0])

    def joined(self) -> int:
        """Groups of linked studies that name more than one patient."""
        return int(self._database.execute("SELECT n FROM joined").fetchone()[0])

    def rejected(self) -> Iterator[Rejected]:
        for row in self._database.execute("SELECT id, path, reason, detail FROM rejected ORDER BY id"):
            yield Rejected(*row)

    def rows(self, split: str, start: int = 0, stop: int | None = None) -> Iterator[PlannedRow]:
        """Rows of a split in record order, from `start` to before `stop`."""
        query = (
            "SELECT ordinal, id, path, identity, patient, series, slice, label, labels, label_mask, facts FROM planned "
            "WHERE split = ? AND ordinal >= ? AND ordinal < ? ORDER BY ordinal"
        )
        end = 1 << 62 if stop is None else stop
        for row in self._database.execute(query, (split, start, end)):
            labels, mask, facts = (json.loads(text) for text in row[-3:])
            yield PlannedRow(*row[:-3], tuple(labels), tuple(mask), facts)  # type: ignore[call-arg]
