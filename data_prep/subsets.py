"""Subsets of the train split, written as splits.parquet: nested fractions by patient, and k-shot lists.

A fraction is drawn from the next larger one. Each stratum (class of a patient) gives its rounded share of the patients,
but at least one of each class. They are a systematic sample: one of each block of the patients sorted by their number
of records, so that this number follows too. Of such samples the first is kept whose records have the class mix of the
whole split and are as many as asked, within the tolerances (rejective sampling: Fuller 2009, Biometrika 96); where none
is found, the nearest, and the build says so.

Everything is drawn by unsalted hashes of (seed, name), like the splits, and stays on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import math
from pathlib import Path
import sqlite3
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.scratch import scratch
from data_prep.spec import DatasetSpec
from data_prep.splits import draw
from radnet_jax.data.card import MANIFEST_FILE
from radnet_jax.data.subsets import SPLITS_FILE, SUBSETS_KEY, TRAIN

FRACTIONS = (1.0, 0.5, 0.1, 0.01, 0.001)
MIX_TOLERANCE = 0.05  # largest departure of a class's share of the records from its share of the whole split
COUNT_TOLERANCE = 0.2  # largest departure of the number of records from the fraction, relative
MAX_DRAWS = 50
NO_FINDING = "none of these"  # the class of records that are known to show no finding
_BATCH = 8192
_SCHEMA = """
CREATE TABLE skipped (ordinal INTEGER PRIMARY KEY);
CREATE TABLE records (place INTEGER PRIMARY KEY, id INTEGER, person INTEGER, draw BLOB);
CREATE TABLE labels (place INTEGER, label INTEGER, PRIMARY KEY (place, label)) WITHOUT ROWID;
CREATE TABLE units (person INTEGER PRIMARY KEY, patient TEXT, stratum INTEGER, records INTEGER, draw BLOB,
  level INTEGER DEFAULT 0);
CREATE TABLE mix (person INTEGER, label INTEGER, n INTEGER, PRIMARY KEY (person, label)) WITHOUT ROWID;
CREATE TABLE seats (stratum INTEGER PRIMARY KEY, members INTEGER, seats INTEGER);
CREATE TABLE chosen (person INTEGER PRIMARY KEY);
CREATE TABLE shots (place INTEGER PRIMARY KEY, shot INTEGER);
"""
# Places count the records of the split as they were written: without those whose pixels could not be used.
_RECORDS = """
INSERT INTO records
SELECT ROW_NUMBER() OVER (ORDER BY ordinal) - 1, id, person, draw('record ' || identity)
FROM plan.planned JOIN plan.rows USING (id) WHERE split = ? AND ordinal NOT IN (SELECT ordinal FROM skipped)
"""
_LABELS = {
    "none": (),
    "single_label": ("INSERT INTO labels SELECT place, label FROM records JOIN plan.rows USING (id) WHERE label >= 0",),
    "multi_label": (
        "INSERT INTO labels SELECT place, found.key FROM records JOIN plan.rows USING (id), json_each(labels) AS found "
        "WHERE found.value AND json_extract(label_mask, '$[' || found.key || ']')",
        "INSERT INTO labels SELECT place, json_array_length(labels) FROM records JOIN plan.rows USING (id) "
        "WHERE place NOT IN (SELECT place FROM labels) AND EXISTS (SELECT 1 FROM json_each(label_mask) WHERE value)",
    ),
}
_UNITS = """
INSERT INTO units SELECT person, patient, stratum, COUNT(*), draw('patient ' || patient), 0
FROM records JOIN plan.patients ON patients.id = person GROUP BY person;
INSERT INTO mix SELECT person, label, COUNT(*) FROM labels JOIN records USING (place) GROUP BY person, label;
"""
_CHOOSE = """
INSERT INTO chosen
WITH blocks AS (
  SELECT person, stratum, patient,
    (ROW_NUMBER() OVER (PARTITION BY stratum ORDER BY records, draw) - 1) * seats / members AS block
  FROM units JOIN seats USING (stratum) WHERE level = :level AND seats > 0),
ranks AS (
  SELECT person, ROW_NUMBER() OVER (PARTITION BY stratum, block ORDER BY draw(:name || patient)) AS rank FROM blocks)
SELECT person FROM ranks WHERE rank = 1
"""
# In turn one record of each patient, so that no patient comes twice in a class while others have not come.
_SHOTS = """
INSERT INTO shots
WITH rounds AS (
  SELECT place, label, units.draw AS turn,
    ROW_NUMBER() OVER (PARTITION BY label, person ORDER BY records.draw) AS round
  FROM labels JOIN records USING (place) JOIN units USING (person)),
ranks AS (SELECT place, ROW_NUMBER() OVER (PARTITION BY label ORDER BY round, turn) AS rank FROM rounds)
SELECT place, MIN(rank) FROM ranks GROUP BY place
"""


@dataclasses.dataclass(frozen=True)
class Subsets:
    """What was written.

    Attributes:
      sha256: of the file splits.parquet.
      content: SHA-256 of what it says without the hashed ids, so that it does not depend on the salt.
      report: patients and records of each fraction, reached and asked, and records of each class, for build.json.
      remark: a line for the user where fractions are not what was asked, else "".
    """

    sha256: str
    content: str
    report: Mapping[str, Any]
    remark: str


def write_subsets(out: Path, plan: Path, spec: DatasetSpec, skipped: Sequence[int], seed: int) -> Subsets:
    """Writes splits.parquet: for each record, in the order of the manifest, the smallest fraction and the smallest k of
    the k-shot lists that hold it (columns split, index, case_id, patient, fraction, shot).

    Splits other than train have the fraction 1 and no shot; a record without a known label has no shot.

    Args:
      out: the dataset's folder, which holds its manifest.
      plan: file of the plan.
      spec: the dataset.
      skipped: places in the plan of the train split whose pixels could not be used.
      seed: of the draws.
    """
    path = plan.with_name("subsets.sqlite")
    with scratch(path) as database:
        database.create_function("draw", 1, lambda name: draw(seed, name), deterministic=True)
        _load(database, plan, spec, skipped)
        fractions = _draw_fractions(database, spec)
        database.execute(_SHOTS)
        counts = database.execute("SELECT label, COUNT(*) FROM labels GROUP BY label ORDER BY label")
        shots = {_name(spec, label): n for label, n in counts}
        made = {"fractions": [float(f) for f in fractions], "shots": shots}
        content = _write(out, database, json.dumps(made))
    path.unlink()
    with (out / SPLITS_FILE).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    report = {"fractions": {name: dataclasses.asdict(f) for name, f in fractions.items()}, "shots": shots}
    unit = "images" if spec.no_patients else "patients"
    others = "; ".join(f"{name} has {f.told(unit)}" for name, f in fractions.items() if not f.met())
    return Subsets(sha256, content, report, f"{TRAIN}: fractions other than asked: {others}" if others else "")


def _load(database: sqlite3.Connection, plan: Path, spec: DatasetSpec, skipped: Sequence[int]) -> None:
    database.execute("ATTACH ? AS plan", (str(plan),))
    database.executescript(_SCHEMA)
    database.executemany("INSERT INTO skipped VALUES (?)", ((ordinal,) for ordinal in skipped))
    database.execute(_RECORDS, (TRAIN,))
    for query in _LABELS[spec.task]:
        database.execute(query)
    database.executescript(_UNITS)


@dataclasses.dataclass(frozen=True)
class Fraction:
    """A fraction as it was made.

    Attributes:
      patients: number of patients.
      patients_asked: share of all patients.
      records: number of their records.
      records_asked: share of all records.
      labels: records by class.
      mix_departure: largest difference of a class's share of the records from its share of the whole split.
    """

    patients: int
    patients_asked: float
    records: int
    records_asked: float
    labels: Mapping[str, int]
    mix_departure: float

    def departure(self) -> float:
        """How far it is from what was asked, by records: at most 1 is within the tolerances."""
        count = abs(self.records / self.records_asked - 1) / COUNT_TOLERANCE
        return max(count, self.mix_departure / MIX_TOLERANCE)

    def met(self) -> bool:
        return abs(self.patients - self.patients_asked) < 1 and self.departure() <= 1

    def told(self, unit: str) -> str:
        return (
            f"{self.patients} {unit} (asked {self.patients_asked:g}), {self.records} records (asked "
            f"{self.records_asked:g}), shares of classes within {self.mix_departure:.2f}"
        )


def _draw_fractions(database: sqlite3.Connection, spec: DatasetSpec) -> dict[str, Fraction]:
    sizes = dict(database.execute("SELECT stratum, COUNT(*) FROM units GROUP BY stratum"))
    if not sizes:
        return {}
    whole = _counts(database, spec, "SELECT person FROM units")
    made: dict[str, Fraction] = {}
    before = sizes
    for level, fraction in enumerate(FRACTIONS):
        wanted = seats(sizes, before, fraction)
        made[f"{fraction:g}"] = _choose(database, spec, level, before, wanted, whole)
        _check(database, level, sizes, wanted, fraction)
        before = wanted
    return made


def seats(sizes: Mapping[int, int], before: Mapping[int, int], fraction: float) -> dict[int, int]:
    """Patients of each stratum in a fraction: its share rounded down or up so that the total is right, but at least one
    of a labelled stratum, and no more than in the next larger fraction.

    Args:
      sizes: patients of each stratum in the whole split.
      before: patients of each stratum in the next larger fraction.
      fraction: of the patients.
    """
    exact = {s: fraction * n for s, n in sizes.items()}
    floors = {s: math.floor(x + 1e-9) for s, x in exact.items()}
    result = {s: min(before[s], max(floors[s], int(s >= 0))) for s in sizes}
    left = max(1, math.floor(fraction * sum(sizes.values()) + 0.5)) - sum(result.values())
    for s in sorted(sizes, key=lambda s: (floors[s] - exact[s], -sizes[s], s)):
        if left > 0 and result[s] < before[s] and result[s] == floors[s]:
            result[s] += 1
            left -= 1
    return result


def _choose(
    database: sqlite3.Connection,
    spec: DatasetSpec,
    level: int,
    before: Mapping[int, int],
    wanted: Mapping[int, int],
    whole: tuple[int, int, dict[str, int]],
) -> Fraction:
    """Raises the level of the patients that are chosen out of those of the level below."""
    database.execute("DELETE FROM seats")
    database.executemany("INSERT INTO seats VALUES (?, ?, ?)", ((s, before[s], n) for s, n in wanted.items()))

    def attempt(number: int) -> Fraction:
        database.execute("DELETE FROM chosen")
        database.execute(_CHOOSE, {"level": max(0, level - 1), "name": f"fraction {level} {number} "})
        patients, records, labels = _counts(database, spec, "SELECT person FROM chosen")
        shares = (abs(labels.get(name, 0) / records - n / whole[1]) for name, n in whole[2].items())
        asked = [round(n * FRACTIONS[level], 3) for n in whole[:2]]
        return Fraction(patients, asked[0], records, asked[1], labels, round(max(shares, default=0.0), 6))

    draws: list[float] = []
    while not draws or (min(draws) > 1 and len(draws) < MAX_DRAWS):
        found = attempt(len(draws))
        draws.append(found.departure())
    if draws[-1] > min(draws):
        found = attempt(draws.index(min(draws)))
    database.execute("UPDATE units SET level = ? WHERE person IN (SELECT person FROM chosen)", (level,))
    return found


def _counts(database: sqlite3.Connection, spec: DatasetSpec, people: str) -> tuple[int, int, dict[str, int]]:
    """Patients, records, and records by class, of the persons that a query selects."""
    query = f"SELECT COUNT(*), SUM(records) FROM units WHERE person IN ({people})"
    patients, records = database.execute(query).fetchone()
    labels = f"SELECT label, SUM(n) FROM mix WHERE person IN ({people}) GROUP BY label"
    return patients, records, {_name(spec, label): n for label, n in database.execute(labels)}


def _check(
    database: sqlite3.Connection, level: int, sizes: Mapping[int, int], wanted: Mapping[int, int], fraction: float
) -> None:
    """Counts what was drawn: in every fraction the classes of the patients are those of the split."""
    query = "SELECT stratum, COUNT(*) FROM units WHERE level >= ? GROUP BY stratum"
    reached = dict(database.execute(query, (level,)))
    for stratum, n in sizes.items():
        k = reached.get(stratum, 0)
        if k != wanted[stratum] or not (abs(k - fraction * n) < 1 or (k == 1 and stratum >= 0)):
            raise RuntimeError(f"fraction {fraction:g} holds {k} of {n} patients of stratum {stratum}")


def _name(spec: DatasetSpec, label: int) -> str:
    return spec.labels[label] if label < len(spec.labels) else NO_FINDING


def _write(out: Path, database: sqlite3.Connection, made: str) -> str:
    """Writes the file beside the manifest, whose ids it takes over; returns the digest of its salt-free content."""
    fields = [("split", pa.string()), ("index", pa.int64()), ("case_id", pa.string()), ("patient", pa.string())]
    schema = pa.schema([*fields, ("fraction", pa.float64()), ("shot", pa.int32())], {SUBSETS_KEY: made})
    content = hashlib.sha256(made.encode())
    train = _train(database)
    manifest = pq.ParquetFile(out / MANIFEST_FILE)
    with pq.ParquetWriter(out / SPLITS_FILE, schema) as writer:
        for batch in manifest.iter_batches(_BATCH, columns=[name for name, _ in fields]):
            found = [next(train) if split == TRAIN else (1.0, None) for split in batch["split"].to_pylist()]
            columns = [pa.array([f for f, _ in found], pa.float64()), pa.array([s for _, s in found], pa.int32())]
            content.update("\0".join(batch["split"].to_pylist()).encode())
            content.update(np.asarray([(f, s or 0) for f, s in found], "<f8").tobytes())
            writer.write_table(pa.Table.from_arrays([*batch.select(schema.names[:4]).columns, *columns], schema=schema))
    if next(train, None) is not None:
        raise RuntimeError("the plan holds more records of the train split than its manifest")
    return content.hexdigest()


def _train(database: sqlite3.Connection) -> Iterator[tuple[float, int | None]]:
    query = (
        "SELECT level, shot FROM records JOIN units USING (person) LEFT JOIN shots USING (place) ORDER BY records.place"
    )
    for level, shot in database.execute(query):
        yield FRACTIONS[level], shot
