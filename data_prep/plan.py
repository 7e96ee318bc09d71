"""The plan of a build: which files become records, in which split and order; `header_pass.py` makes it.

The plan is an SQLite file, so that memory stays flat in the number of files. It holds paths and identifiers: it lives
in the private working folder of an unfinished build and is deleted with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import json
import os
from pathlib import Path
import sqlite3
from typing import Any, NamedTuple

LOCAL = ("file ", "folder ")  # how names begin that mean nothing outside their source
OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Rejected(NamedTuple):
    """file: index of the file in the scan; reason: code; path and detail are private."""

    file: int
    path: str
    reason: str
    detail: str


class PlannedRow(NamedTuple):
    """A row with its place: `order` counts the rows of its split, `file` the files of the scan.

    `position` is the distance along the slice normal from the first slice of the series, in mm; None unless every slice
    of the series has a place in the same orientation. `person` numbers the patients in the order of their first files;
    `known` says that the patient's name means something outside this source, so that it can match in another dataset.
    `carried` is that of the Row.
    """

    order: int
    file: int
    path: str
    identity: str
    patient: str
    series: str
    slice: int
    position: float | None
    frame: int
    mask: str
    label: int
    labels: tuple[int, ...]
    label_mask: tuple[int, ...]
    facts: Mapping[str, str | None]
    size: tuple[int, int] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    person: int
    known: bool
    carried: Mapping[str, Any]


# Geometry is recorded, never mended: series with uneven gaps (missing slices), several slices at one place, or slices
# shifted against each other (a tilted gantry) are counted. Tolerance 0.1 mm, for writers that round.
_SERIES = """
WITH steps AS (
  SELECT planned.series, planned.position, along_row, along_column,
    planned.position - LAG(planned.position) OVER (PARTITION BY planned.series ORDER BY slice) AS step
  FROM planned JOIN rows USING (id) WHERE slice >= 0),
series AS (
  SELECT MIN(position IS NOT NULL) AS placed,
    MAX(step) - MIN(CASE WHEN step >= 0.01 THEN step END) > 0.1 AS uneven_gaps, MIN(step) < 0.01 AS shared_positions,
    MAX(MAX(along_row) - MIN(along_row), MAX(along_column) - MIN(along_column)) > 0.1 AS sheared
  FROM steps GROUP BY series)
SELECT COUNT(*) AS series, SUM(NOT placed) AS without_positions, SUM(placed AND uneven_gaps) AS uneven_gaps,
  SUM(placed AND shared_positions) AS shared_positions, SUM(placed AND sheared) AS sheared FROM series
"""


def is_plan(path: Path) -> bool:
    """Whether `path` is a plan, whole: a power cut or a copy can leave half of one."""
    if not path.is_file():
        return False
    try:
        with Plan(path) as plan:
            return plan.is_whole()
    except (sqlite3.DatabaseError, TypeError):  # TypeError: no row in it
        return False


def _path(stored: str | bytes) -> str:
    return os.fsdecode(stored) if isinstance(stored, bytes) else stored


def reasons_text(counts: Mapping[str, int]) -> str:
    """Counts by reason as one line, the commonest first."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))


class Plan:
    """A finished plan, opened to read."""

    def __init__(self, path: Path):
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        query = "SELECT files, joined, namespace FROM scan"
        self._files, self._joined, self._namespace = self._database.execute(query).fetchone()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def is_whole(self) -> bool:
        """Whether the file is as it was written, as far as its structure tells."""
        return [row[0] for row in self._database.execute("PRAGMA quick_check")] == ["ok"]

    def sizes(self) -> dict[str, int]:
        """Planned rows of each split."""
        return dict(self._database.execute("SELECT split, COUNT(*) FROM planned GROUP BY split"))

    def files(self) -> int:
        """Files that the scan saw."""
        return int(self._files)

    def left_out(self) -> int:
        """Usable files of lists or folders that none of the asked splits takes."""
        query = "SELECT COUNT(DISTINCT file) FROM rows WHERE patient NOT IN (SELECT patient FROM patients)"
        return int(self._database.execute(query).fetchone()[0])

    def not_asked(self) -> tuple[int, int]:
        """Files of which no image is wanted by the options of the dataset, and images that they leave out in all."""
        query = "SELECT COUNT(*) FROM not_asked WHERE file NOT IN (SELECT file FROM rows UNION SELECT id FROM rejected)"
        files = self._database.execute(query).fetchone()[0]
        images = self._database.execute("SELECT COALESCE(SUM(images), 0) FROM not_asked").fetchone()[0]
        return int(files), int(images)

    def series(self) -> dict[str, int]:
        """Number of series, and how many of them have which oddity of geometry."""
        cursor = self._database.execute(_SERIES)
        return {column[0]: int(n or 0) for column, n in zip(cursor.description, cursor.fetchone())}

    def joined(self) -> int:
        """Groups of linked studies that name more than one patient."""
        return int(self._joined)

    def patients(self) -> tuple[int, int]:
        """Number of patients, and how many of them go by the name of a study or a file for want of an id."""
        query = "SELECT COUNT(*), COALESCE(SUM(NOT named), 0) FROM patients"
        count, unknown = self._database.execute(query).fetchone()
        return int(count), int(unknown)

    def rejected(self) -> Iterator[Rejected]:
        for row in self._database.execute("SELECT id, path, reason, detail FROM rejected ORDER BY id"):
            yield Rejected(row[0], _path(row[1]), *row[2:])

    def rows(self, split: str, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[PlannedRow]:
        """Rows of a split in record order, from `start` to before `stop`, every `step`-th."""
        query = (
            "SELECT ordinal, file, path, identity, patients.patient, rows.series, slice, planned.position, frame, "
            "mask, label, labels, label_mask, facts, geometry, person "
            "FROM planned JOIN rows USING (id) JOIN patients ON patients.id = person "
            "WHERE planned.split = ? AND ordinal >= ? AND ordinal < ? AND ordinal % ? = 0 ORDER BY ordinal"
        )
        end = 1 << 62 if stop is None else stop
        for row in self._database.execute(query, (split, start, end, step)):
            labels, mask, facts, (size, spacing, thickness, carried) = (json.loads(text) for text in row[-5:-1])
            known = not row[4].startswith(LOCAL)
            patient = row[4] if known else f"{self._namespace} {row[4]}"
            rest = (tuple(labels), tuple(mask), facts, size and tuple(size), spacing and tuple(spacing), thickness)
            place = (row[0], row[1], _path(row[2]), row[3], patient, *row[5:9], _path(row[9]), row[10])
            yield PlannedRow(*place, *rest, row[-1], known, carried)  # type: ignore[call-arg]
