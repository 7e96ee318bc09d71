"""Patient-disjoint, stratified splits: a pure function of the patients and a seed.

The salt plays no part: patients are ordered by an unsalted hash of (seed, patient) that is never written, so the same
source gives the same splits whatever the salt, and on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import hashlib
import math
import sqlite3
from typing import NamedTuple

from data_prep.spec import SPLIT_NAMES
from radnet_jax.errors import UserError

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
_SCHEMA = """
CREATE TABLE people (patient TEXT, named INTEGER, first INTEGER, pool TEXT, stratum INTEGER, draw BLOB);
CREATE TABLE seats (pool TEXT, stratum INTEGER, split TEXT, start INTEGER, stop INTEGER);
CREATE INDEX seats_by_stratum ON seats (pool, stratum);
"""
# Patients are numbered in the order of their first files, so that the number tells neither name nor salt.
_SEAT = """
CREATE TABLE patients (id INTEGER PRIMARY KEY, patient TEXT UNIQUE, named INTEGER, stratum INTEGER, split TEXT);
WITH placed AS (SELECT *, ROW_NUMBER() OVER (PARTITION BY pool, stratum ORDER BY draw) - 1 AS place FROM people)
INSERT INTO patients SELECT NULL, patient, named, stratum, split FROM placed JOIN seats USING (pool, stratum)
  WHERE place >= start AND place < stop ORDER BY first;
DROP TABLE people;
"""
Pool = tuple[str, int]  # a stratum of the patients that may go to the same splits


class Patient(NamedTuple):
    """A patient of a plan.

    Attributes:
      key: internal id.
      pool: the splits it may go to joined by "+", "" = any.
      stratum: what is balanced; -1 = unlabelled.
      named: whether the key is a patient's id, not that of a study or a file.
      first: number of its first row.
    """

    key: str
    pool: str
    stratum: int
    named: bool = True
    first: int = 0


def check_splits(splits: Sequence[str], fractions: Sequence[float] | None) -> dict[str, float]:
    """Returns {split: fraction} of the asked splits; a UserError for names or fractions that make no sense."""
    names = tuple(splits)
    if not names or len(set(names)) != len(names) or not set(names) <= set(SPLIT_NAMES):
        raise UserError("splits are not usable", got=",".join(names) or "none", expected="some of train,val,test")
    if fractions is None:
        chosen = [DEFAULT_FRACTIONS[name] for name in names]
        return {name: f / sum(chosen) for name, f in zip(names, chosen)}
    given = tuple(float(f) for f in fractions)
    if len(given) != len(names) or min(given) <= 0 or not math.isclose(sum(given), 1.0, abs_tol=1e-6):
        raise UserError(
            "split_fractions are not usable",
            got=",".join(f"{f:g}" for f in given),
            expected=f"{len(names)} positive numbers that add up to 1, for {','.join(names)}",
        )
    return dict(zip(names, given))


def majority(labels: Mapping[int, int]) -> int:
    """Stratum of a patient from {label: count}: the commonest label, the lower of a tie; -1 only without any other."""
    known = {label: n for label, n in labels.items() if label >= 0}
    return min(known, key=lambda label: (-known[label], label)) if known else -1


def assign(
    database: sqlite3.Connection, patients: Iterable[Patient], fractions: Mapping[str, float], seed: int
) -> None:
    """Writes the table patients (id, patient, named, stratum, split), without those whose pool holds no asked split.

    Everything that grows with the number of patients stays in the database.

    Args:
      database: holds no such table yet.
      patients: all of them, once each.
      fractions: {split: fraction}, adding up to 1.
      seed: another seed, another division.

    Raises:
      UserError: a split would be empty.
    """
    database.executescript(_SCHEMA)
    people = ((p.key, p.named, p.first, p.pool, p.stratum, draw(seed, p.key)) for p in patients)
    database.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?, ?)", people)
    query = "SELECT pool, stratum, COUNT(*) FROM people GROUP BY pool, stratum"
    seats = divide({(pool, stratum): n for pool, stratum, n in database.execute(query)}, fractions)
    for (pool, stratum), counts in seats.items():
        start = 0
        for split, n in counts.items():
            database.execute("INSERT INTO seats VALUES (?, ?, ?, ?, ?)", (pool, stratum, split, start, start + n))
            start += n
    database.executescript(_SEAT)


def divide(sizes: Mapping[Pool, int], fractions: Mapping[str, float]) -> dict[Pool, dict[str, int]]:
    """Divides patients by number.

    Within each pool every stratum is divided by rounded shares, with the rounding errors carried from one stratum to
    the next so that the totals come out right too; a labelled stratum with at least as many patients as there are
    splits gets one into each.

    Args:
      sizes: patients of each stratum of each pool.
      fractions: {split: fraction}, adding up to 1.

    Returns:
      For each of `sizes` the patients of each split; pools that hold none of the asked splits are left out.

    Raises:
      UserError: a split would be empty.
    """
    if sum(sizes.values()) < len(fractions):
        raise UserError(
            f"{len(fractions)} splits need at least as many patients",
            got=f"{sum(sizes.values())} patient(s)",
            fix="put all in one split with --splits=train",
        )
    seats: dict[Pool, dict[str, int]] = {}
    for pool in sorted({pool for pool, _ in sizes}):
        allowed = [s for s in fractions if not pool or s in pool.split("+")]
        if allowed:
            total = sum(fractions[s] for s in allowed)
            strata = {stratum: n for (name, stratum), n in sizes.items() if name == pool}
            shares = {s: fractions[s] / total for s in allowed}
            seats |= {(pool, stratum): counts for stratum, counts in _divide(strata, shares)}
    totals = {s: sum(counts.get(s, 0) for counts in seats.values()) for s in fractions}
    empty = [s for s in fractions if not totals[s]]
    if empty:
        raise UserError(
            f"split {empty[0]!r} would be empty",
            got=", ".join(f"{s}: {totals[s]} patient(s)" for s in fractions),
            fix=f"ask for the other splits only: --splits={','.join(s for s in fractions if totals[s]) or 'train'}",
        )
    return seats


def _divide(strata: Mapping[int, int], shares: Mapping[str, float]) -> Iterator[tuple[int, dict[str, int]]]:
    totals = dict.fromkeys(shares, 0)
    seats: dict[int, dict[str, int]] = {}
    seen = 0
    for stratum in sorted(strata, key=lambda s: (-strata[s], s)):
        seen += strata[stratum]
        owed = {s: shares[s] * seen - totals[s] for s in shares}
        seats[stratum] = _seats(strata[stratum], shares, owed, at_least_one=stratum >= 0)
        for split, n in seats[stratum].items():
            totals[split] += n
    for split in shares:  # many small strata can leave a split with no seat at all
        if not totals[split] and max(totals.values()) > 1:
            stratum, donor = max(
                ((stratum, donor) for stratum in seats for donor in shares),
                key=lambda c: (totals[c[1]], seats[c[0]][c[1]], c[0]),
            )
            for name, change in ((donor, -1), (split, 1)):
                seats[stratum][name] += change
                totals[name] += change
    yield from seats.items()


def _seats(n: int, shares: Mapping[str, float], owed: Mapping[str, float], *, at_least_one: bool) -> dict[str, int]:
    """Whole seats of one stratum: the floors of its shares, then one at a time to the split that is owed most."""
    seats = {s: math.floor(n * share + 1e-9) for s, share in shares.items()}
    while sum(seats.values()) < n:
        split = max(shares, key=lambda s: (owed[s] - seats[s], shares[s]))
        seats[split] += 1
    if at_least_one and n >= len(shares):
        for split in shares:
            if not seats[split]:
                donor = max(seats, key=lambda s: seats[s])
                seats[donor] -= 1
                seats[split] += 1
    return seats


def draw(seed: int, key: str) -> bytes:
    """What chance says of `key`: 32 bytes that order patients or records, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
