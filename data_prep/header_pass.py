"""The header pass, which makes the plan of a build: rows of every file, duplicates, patients, splits, order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import itertools
import json
import os
from pathlib import Path
import sqlite3
from typing import Any, TypeVar

from data_prep.guard import watch
from data_prep.patients import Groups
from data_prep.plan import LOCAL, OrderedMap, reasons_text
from data_prep.scratch import scratch
from data_prep.spec import Candidate, DatasetSpec, Reject, Row
from data_prep.splits import Patient, assign, majority
from radnet_jax.errors import UserError

FILES_PER_TASK = 256
A = TypeVar("A")
B = TypeVar("B")

_SCHEMA = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, file INTEGER, path TEXT, frame INTEGER, mask TEXT, identity TEXT UNIQUE,
  patient TEXT, named INTEGER, stratum INTEGER, label INTEGER, labels TEXT, label_mask TEXT, series TEXT, plane TEXT,
  position REAL, along_row REAL, along_column REAL, instance INTEGER, pool TEXT, facts TEXT, geometry TEXT);
CREATE TABLE rejected (id INTEGER PRIMARY KEY, path TEXT, reason TEXT, detail TEXT);
CREATE TABLE not_asked (file INTEGER PRIMARY KEY, images INTEGER);
CREATE TABLE scan (files INTEGER, joined INTEGER, namespace TEXT);
CREATE TABLE planned (split TEXT, ordinal INTEGER, id INTEGER, person INTEGER, series INTEGER, slice INTEGER,
  position REAL, PRIMARY KEY (split, ordinal)) WITHOUT ROWID;
"""

# All rows of a group of linked names get the group's key as their patient.
_RENAME = """
UPDATE rows SET (patient, named) = (SELECT key, named FROM keys WHERE name = rows.patient)
WHERE patient IN (SELECT name FROM keys WHERE key <> name)
"""

# Series in the order of their first file; slices of a series along its normal if every slice has a position and all
# have one orientation, else by their instance number. The order must not depend on the salt, so nothing is sorted by a
# hash.
_PLANNED = """
INSERT INTO planned
WITH members AS (
  SELECT rows.id, patients.id AS person, split, series, position, plane, instance
  FROM rows JOIN patients USING (patient)),
ordered AS (
  SELECT id, person, split, position, instance,
    CASE series WHEN '' THEN id ELSE MIN(id) OVER stack END AS first_id, series <> '' AS stacked,
    series <> '' AND MIN(position IS NOT NULL) OVER stack AND MIN(plane) OVER stack = MAX(plane) OVER stack AS placed
  FROM members WINDOW stack AS (PARTITION BY person, series)),
sliced AS (
  SELECT *, CASE WHEN stacked THEN ROW_NUMBER() OVER (
    PARTITION BY first_id ORDER BY CASE WHEN placed THEN position END, instance, id) - 1 ELSE -1 END AS slice
  FROM ordered)
SELECT split, ROW_NUMBER() OVER (PARTITION BY split ORDER BY first_id, slice) - 1, id, person, first_id, slice,
  CASE WHEN placed THEN position - MIN(position) OVER (PARTITION BY first_id) END
FROM sliced
"""


# Why a file is rejected whose instance another has; the first by path is kept.
DUPLICATES = {
    "duplicate": "another file has the same instance",
    "uid_conflict": "another file has the same instance UID, with another patient, series, place or size",
}
Found = list[Row] | tuple[str, str]  # the rows of a file, or the reason and detail of its rejection


def read_rows(task: tuple[DatasetSpec, str, list[Candidate]]) -> list[Found]:
    """Header pass over some candidates."""
    spec, source, candidates = task
    rows: list[Found] = []
    for item, candidate in enumerate(candidates):
        try:
            with watch(item):
                rows.append(list(spec.rows(Path(source), candidate)))
        except Reject as reject:
            rows.append((reject.reason, reject.detail))
    return rows


def make_plan(
    path: Path,
    spec: DatasetSpec,
    source: Path,
    fractions: Mapping[str, float],
    seed: int,
    namespace: str,
    ordered_map: OrderedMap,
    progress: Callable[[int], None],
    files_per_task: int = FILES_PER_TASK,
) -> None:
    """Reads the header of each candidate and writes the plan to `path`, which appears only when it is complete.

    Args:
      path: of the plan.
      spec: the dataset.
      source: folder of the raw files.
      fractions: {split: fraction}.
      seed: of the splits.
      namespace: tells this source from others, so that patients who go by the name of a file don't match there.
      ordered_map: applies a function to tasks, in order, perhaps in other processes.
      progress: called with the number of files read so far.
      files_per_task: whose headers are read at a time.

    Raises:
      UserError: no usable file (with the counts by reason), a patient in two official lists, or a split left empty.
    """
    with scratch(path) as database:
        database.executescript(_SCHEMA)
        tasks = ((spec, str(source), chunk) for chunk in _chunks(spec.candidates(source), files_per_task))
        files = 0
        groups = Groups(database)
        for (_, _, chunk), results in _with_input(ordered_map, read_rows, tasks):
            for file, (candidate, result) in enumerate(zip(chunk, results), files):
                _insert(database, file, candidate, result, groups)
            files += len(chunk)
            progress(len(chunk))
        _refuse_nothing(database)
        joined = groups.finish()
        database.execute("INSERT INTO scan VALUES (?, ?, ?)", (files, joined, namespace))
        database.execute(_RENAME)
        try:
            assign(database, _patients(database, spec), fractions, seed)
        except UserError as error:
            if not joined:
                raise
            raise UserError(f"{error}; {joined} groups of files name more than one patient and count as one") from error
        database.execute(_PLANNED)


def _chunks(candidates: Iterator[Candidate], size: int) -> Iterator[list[Candidate]]:
    while chunk := list(itertools.islice(candidates, size)):
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


def _insert(database: sqlite3.Connection, file: int, candidate: Candidate, found: Found, groups: Groups) -> None:
    if isinstance(found, list):
        asked = [row for row in found if row.asked]
        if len(asked) < max(1, len(found)):
            database.execute("INSERT INTO not_asked VALUES (?, ?)", (file, max(1, len(found) - len(asked))))
            found = asked
        try:
            refusals = {_insert_row(database, file, row, groups) for row in found} - {""}
        except (OverflowError, sqlite3.DataError) as error:  # a value that no table of numbers holds
            refusals = {"bad_header"}
            found = ("bad_header", f"{type(error).__name__}: {error}")
        else:
            if not refusals:
                return
            reason = max(refusals)
            found = (reason, DUPLICATES[reason])
    reason, detail = found
    database.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", (file, _bound(candidate.path), reason, _plain(detail)))


def _bound(path: str) -> str | bytes:
    """A path as SQLite takes it: text, or its bytes where they are no UTF-8."""
    return path if path.isascii() or _plain(path) == path else os.fsencode(path)


def _plain(text: str) -> str:
    """Text in which the bytes of a path that are no UTF-8 are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _insert_row(database: sqlite3.Connection, file: int, row: Row, groups: Groups) -> str:
    """Returns "" or, for an identity that is there already, a key of DUPLICATES."""
    names = tuple(map(_plain, _names(row)))
    identity, series = _plain(row.identity), _plain(row.series)
    patient = next(name for name in names if name)
    if row.links:
        groups.add(names)
    values = (
        None, file, _bound(row.path), row.frame, _bound(row.mask), identity, patient, patient == names[0], row.stratum,
        row.label, json.dumps(row.labels), json.dumps(row.label_mask), series, row.plane, row.position,
        *(row.shift or (None, None)), row.instance, _plain(row.pool), json.dumps(dict(row.facts)),
        json.dumps((row.size, row.spacing, row.thickness, dict(row.carried))),
    )  # fmt: skip
    marks = ", ".join("?" * len(values))
    if database.execute(f"INSERT OR IGNORE INTO rows VALUES ({marks})", values).rowcount:
        return ""
    query = "SELECT patient, named, series, plane, position, geometry FROM rows WHERE identity = ?"
    kept, named, *lie = database.execute(query, (identity,)).fetchone()
    # Else it would depend on the order of the copies what is known of the patient. Two that carry one identity by
    # mistake are joined too: that moves a patient to another split, where parting one would spoil the test set.
    if kept != patient:
        groups.add((kept,) if named else ("", kept))
        groups.add((patient,) if names[0] else ("", patient))
        groups.join(kept, patient)
    there = (kept if named else "", *_known(lie[0], lie[1], lie[2], json.loads(lie[3])[0]))
    here = (names[0], *_known(series, row.plane, row.position, row.size))
    return "uid_conflict" if any(a and b and a != b for a, b in zip(there, here)) else "duplicate"


def _known(series: str, plane: str, position: float | None, size: Sequence[int] | None) -> tuple[Any, ...]:
    """What tells one instance from another by their headers, each part false where it is not known."""
    return "" if " folder " in series else series, (plane, position) if plane else (), tuple(size or ())


def _names(row: Row) -> tuple[str, ...]:
    """What the patient of a row goes by, from the widest; "" first without an id, the file itself without anything."""
    if row.patient.startswith(LOCAL):
        return "", row.patient, *row.links
    if row.patient or any(row.links):
        return row.patient, *row.links
    return "", f"file {row.path}"


def _refuse_nothing(database: sqlite3.Connection) -> None:
    if database.execute("SELECT 1 FROM rows LIMIT 1").fetchone():
        return
    counts = dict(database.execute("SELECT reason, COUNT(*) FROM rejected GROUP BY reason ORDER BY reason"))
    raise UserError(
        f"none of the {sum(counts.values())} files of the source is usable",
        got=reasons_text(counts) or "no files",
        fix="`python -m data_prep.build --dataset=NAME --help` tells what the source must look like",
    )


def _patients(database: sqlite3.Connection, spec: DatasetSpec) -> Iterator[Patient]:
    query = (
        "SELECT patient, pool, stratum, COUNT(*), MAX(named), MIN(id) FROM rows GROUP BY patient, pool, stratum "
        "ORDER BY patient"
    )
    for key, group in itertools.groupby(database.execute(query), key=lambda r: r[0]):
        found = list(group)
        pools = {row[1] for row in found}
        if len(pools) > 1:
            raise UserError(
                "a patient stands in several of the source's split lists",
                got=" and ".join(sorted(pools)),
                expected="lists that part no patient",
            )
        strata: Counter[int] = Counter()
        for _, _, stratum, n, _, _ in found:
            strata[stratum] += n
        # Multi-label strata are ranks of rarity: the rarest finding a patient ever had places it.
        stratum = min(strata) if spec.task == "multi_label" else majority(strata)
        yield Patient(key, pools.pop(), stratum, any(row[4] for row in found), min(row[5] for row in found))
