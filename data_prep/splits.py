"""Patient-disjoint, stratified splits: a pure function of the patients and a seed.

The salt plays no part: patients are ordered by an unsalted hash of (seed, patient) that is never written, so the same
source gives the same splits whatever the salt, and on every machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import math
from typing import NamedTuple

from data_prep.spec import SPLIT_NAMES
from radnet_jax.errors import UserError

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


class Patient(NamedTuple):
    """key: internal id; pool: the splits it may go to joined by "+", "" = any; stratum: -1 = unlabelled."""

    key: str
    pool: str
    stratum: int


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


def assign(patients: Iterable[Patient], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assigns patients to splits.

    Within each pool every stratum is divided by rounded shares, with the rounding errors carried from one stratum to
    the next so that the totals come out right too; a labelled stratum with at least as many patients as there are
    splits gets one into each.

    Args:
      patients: all of them, once each.
      fractions: {split: fraction}, adding up to 1.
      seed: another seed, another division.

    Returns:
      {patient key: split}; patients whose pool holds none of the asked splits are left out.

    Raises:
      UserError: a split would be empty.
    """
    pools: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    for patient in patients:
        pools[patient.pool][patient.stratum].append(patient.key)
        count += 1
    if count < len(fractions):
        raise UserError(
            f"{len(fractions)} splits need at least as many patients",
            got=f"{count} patient(s)",
            fix="put all in one split with --splits=train",
        )
    assigned: dict[str, str] = {}
    for pool in sorted(pools):
        allowed = [s for s in fractions if not pool or s in pool.split("+")]
        if allowed:
            total = sum(fractions[s] for s in allowed)
            shares = {s: fractions[s] / total for s in allowed}
            assigned.update(_divide(pools[pool], shares, seed))
    sizes = Counter(assigned.values())
    empty = [s for s in fractions if not sizes[s]]
    if empty:
        raise UserError(
            f"split {empty[0]!r} would be empty",
            got=", ".join(f"{s}: {sizes[s]} patient(s)" for s in fractions),
            fix=f"ask for the other splits only: --splits={','.join(s for s in fractions if sizes[s]) or 'train'}",
        )
    return assigned


def _divide(strata: Mapping[int, list[str]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    counts = dict.fromkeys(shares, 0)
    groups: dict[tuple[int, str], list[str]] = {}
    seen = 0
    for stratum in sorted(strata, key=lambda s: (-len(strata[s]), s)):
        keys = sorted(strata[stratum], key=lambda key: _order(seed, key))
        seen += len(keys)
        seats = _seats(len(keys), shares, {s: shares[s] * seen - counts[s] for s in shares}, at_least_one=stratum >= 0)
        start = 0
        for split, n in seats.items():
            groups[stratum, split] = keys[start : start + n]
            counts[split] += n
            start += n
    for split in shares:  # many small strata can leave a split with no seat at all
        if not counts[split] and max(counts.values()) > 1:
            stratum, donor = max(groups, key=lambda g: (counts[g[1]], len(groups[g]), g[0]))
            groups.setdefault((stratum, split), []).append(groups[stratum, donor].pop())
            counts[donor] -= 1
            counts[split] += 1
    return {key: split for (_, split), keys in groups.items() for key in keys}


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


def _order(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
