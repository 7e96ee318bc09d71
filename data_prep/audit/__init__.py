"""Is the test set clean? The same patient, file or picture in two splits that must not share any.

    python -m data_prep.audit DATASET [DATASET ...] [--out=DIR]

A leak is what stands in splits of different names: in train and test of one dataset, or in train of one (a pretraining
corpus) and test of another (a downstream task). Slices of one series in one split are none, and neither is what the
training splits of two datasets share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
import time
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.audit.images import Likeness, same_pictures
from data_prep.audit.likeness import SMALLEST
from data_prep.audit.near import MAX_DISTANCE
from data_prep.audit.units import Dataset, Unit, open_datasets, read_units
from data_prep.spec import SPLIT_NAMES
from radnet_jax.errors import UserError

DISTANCE = 10
LIKENESS = 0.85
KINDS = ("patient", "file", "image")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        *((f"{name}_{side}", kind) for side in ("a", "b") for name, kind in (
            ("dataset", pa.string()), ("split", pa.string()), ("index", pa.int64()), ("case_id", pa.string()),
            ("records", pa.int64()),
        )),
        ("patient", pa.string()), ("distance", pa.int32()), ("likeness", pa.float32()), ("turn", pa.string()),
    ]
)  # fmt: skip
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
      datasets: name, fingerprint of the records and of the salt, and records by split of each.
      compared: the pairs of splits, as (dataset, split, dataset, split).
      pairs: a row for each leak (`SCHEMA`): kind "patient" (in both splits; `patient` is the hash, the case ids are
        those of its first records, `records` their number), "file" (files of equal content, likewise) or "image" (two
        records whose pictures are the same, of different files and patients as far as these are known; `distance` in
        bits, `likeness`, and how a has to be turned to lie like b).
      candidates: pairs of images whose hashes are near, all compared by their pixels.
      notes: what could not be compared, and what the builds said of unknown patients.
      settings: distance, likeness, images_only.
    """

    datasets: list[dict[str, Any]]
    compared: list[tuple[str, str, str, str]]
    pairs: pa.Table
    candidates: int
    notes: list[str]
    settings: dict[str, Any]

    @property
    def clean(self) -> bool:
        return self.pairs.num_rows == 0

    def counts(self) -> dict[str, int]:
        """Leaks by kind."""
        kinds = self.pairs["kind"].to_pylist()
        return {kind: kinds.count(kind) for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "pairs"}
        return {"clean": self.clean, "leaks": self.counts()} | fields


def audit(
    folders: Sequence[str | os.PathLike[str]],
    *,
    distance: int = DISTANCE,
    likeness: float = LIKENESS,
    images_only: bool = False,
    wanted: Callable[[Unit, Unit], bool] | None = None,
    log: Log = print,
) -> AuditResult:
    """Looks for what splits of different names share, within each dataset and between them.

    Args:
      folders: built datasets.
      distance: bits by which the hashes of two images may differ for their pixels to be compared.
      likeness: from this on two images count as the same picture (`likeness.py`).
      images_only: whether patients and files are left out where datasets were built with different salts.
      wanted: which pairs of splits of different names are compared; all by default.
      log: takes a line of progress now and then.

    Raises:
      UserError: no datasets, nothing to compare, ids hashed with different salts, a setting out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UserError("distance", got=distance, expected=f"0 to {MAX_DISTANCE} bits")
    if not 0 < likeness <= 1:
        raise UserError("likeness", got=likeness, expected="more than 0, up to 1")
    datasets = open_datasets(folders)
    notes = _notes(datasets, images_only)
    units = [unit for dataset in datasets for unit in read_units(dataset)]
    pairs = itertools.combinations(units, 2)
    compared = [(a, b) for a, b in pairs if a.split != b.split and (wanted is None or wanted(a, b))]
    if not compared:
        raise UserError(
            "nothing to compare: all records are in splits of one name",
            got=", ".join(sorted({unit.split for unit in units})),
            expected="splits of different names, such as train and test",
        )
    progress = _Progress(log)
    rows = [row for a, b in compared for row in _leaks(a, b, distance, likeness, progress)]
    return AuditResult(
        datasets=[
            {"name": d.name, "fingerprint": d.card.fingerprint, "salt": d.salt, "splits": _in_order(d.card.splits)}
            for d in datasets
        ],
        compared=[(a.dataset.name, a.split, b.dataset.name, b.split) for a, b in compared],
        pairs=pa.Table.from_pylist(rows, SCHEMA),
        candidates=progress.done,
        notes=notes,
        settings={"distance": distance, "likeness": likeness, "images_only": images_only},
    )


def _in_order(splits: Mapping[str, int]) -> dict[str, int]:
    return {name: splits[name] for name in SPLIT_NAMES if name in splits}


class _Progress:
    def __init__(self, log: Log):
        self.done = 0
        self._log, self._last = log, time.monotonic()

    def __call__(self, n: int) -> None:
        self.done += n
        if time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            self._log(f"audit: {self.done:,} pairs of images compared so far")


def _notes(datasets: Sequence[Dataset], images_only: bool) -> list[str]:
    """What the user has to know of the limits of the audit; a UserError where patients could only seem not to match."""
    out = [f"{d.name}: {d.note}" for d in datasets if d.note]
    for a, b in itertools.combinations(datasets, 2):
        if a.salt == b.salt or a.nobody or b.nobody:
            continue
        if not images_only:
            raise UserError(
                f"{a.name} and {b.name} were built with different salts, so that their patients can't be matched",
                fix="build both with one --salt_file, or compare images alone with --images_only",
            )
        out.append(f"{a.name} and {b.name}: different salts, so that only their images were compared")
    return out


def _leaks(a: Unit, b: Unit, distance: int, likeness: float, progress: _Progress) -> Iterator[dict[str, Any]]:
    same_salt = a.dataset.salt == b.dataset.salt
    patients = same_salt and (a.dataset is b.dataset or not (a.dataset.nobody or b.dataset.nobody))
    if patients:
        yield from _shared("patient", a, b, a.patients, b.patients)
    if same_salt:
        yield from _shared("file", a, b, a.sources, b.sources)
    yield from _pictures(a, b, distance, likeness, patients, same_salt, progress)


def _shared(kind: str, a: Unit, b: Unit, ids_a: np.ndarray, ids_b: np.ndarray) -> Iterator[dict[str, Any]]:
    """Ids that both splits have, in the order of a's records."""
    unique_a, first_a, count_a = np.unique(ids_a, return_index=True, return_counts=True)
    unique_b, first_b, count_b = np.unique(ids_b, return_index=True, return_counts=True)
    _, at_a, at_b = np.intersect1d(unique_a, unique_b, assume_unique=True, return_indices=True)
    order = np.argsort(first_a[at_a])
    at_a, at_b = at_a[order], at_b[order]
    places_a, places_b = first_a[at_a], first_b[at_b]
    if not len(places_a):
        return
    names = a.cells("patient", places_a) if kind == "patient" else [None] * len(places_a)
    rows = zip(_sides(a, b, places_a, places_b), count_a[at_a].tolist(), count_b[at_b].tolist(), names, strict=True)
    for row, records_a, records_b, name in rows:
        yield row | {"kind": kind, "records_a": records_a, "records_b": records_b, "patient": name}


def _pictures(
    a: Unit, b: Unit, distance: int, likeness: float, patients: bool, files: bool, progress: _Progress
) -> Iterator[dict[str, Any]]:
    for unit in (a, b):
        if min(unit.dataset.card.stored.size) < SMALLEST:
            raise UserError(
                f"the images of {unit.dataset.name} are too small to compare",
                got=unit.dataset.card.stored.size,
                expected=f"at least {SMALLEST} pixels a side",
            )

    def told(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        out = np.zeros(len(one), bool)
        if patients:
            out |= a.patients[one] == b.patients[other]
        if files:
            out |= a.sources[one] == b.sources[other]
        return out

    found: list[Likeness] = same_pictures(a, b, distance, likeness, told, progress)
    places_a, places_b = [f.first for f in found], [f.second for f in found]
    for row, pair in zip(_sides(a, b, places_a, places_b), found, strict=True):
        yield row | {
            "kind": "image", "records_a": 1, "records_b": 1, "distance": pair.distance,
            "likeness": pair.likeness, "turn": str(pair.turn),
        }  # fmt: skip


def _sides(
    a: Unit, b: Unit, places_a: Sequence[int] | np.ndarray, places_b: Sequence[int] | np.ndarray
) -> list[dict[str, Any]]:
    if not len(places_a):
        return []
    cases_a, cases_b = a.cells("case_id", places_a), b.cells("case_id", places_b)
    return [
        {
            "dataset_a": a.dataset.name, "split_a": a.split, "index_a": int(i), "case_id_a": case_a,
            "dataset_b": b.dataset.name, "split_b": b.split, "index_b": int(j), "case_id_b": case_b,
        }
        for i, j, case_a, case_b in zip(places_a, places_b, cases_a, cases_b, strict=True)
    ]  # fmt: skip
