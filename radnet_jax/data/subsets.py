"""Subsets of the train split: nested fractions by patient, and k-shot lists. Written by `data_prep.subsets`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from jaxtyping import Int
import numpy as np
import pyarrow.parquet as pq

from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError

SPLITS_FILE = "splits.parquet"
SUBSETS_KEY = b"subsets"  # metadata of the file: {"fractions": [...], "shots": {class: records}}
TRAIN = "train"  # the only split that subsets are made of


def subset_indices(
    folder: str | Path, split: str, *, fraction: float = 1.0, shots: int | None = None
) -> Int[np.ndarray, " n"]:
    """Indices of the records of a subset of a split, ascending.

    Smaller subsets lie within larger ones. A fraction holds that share of the patients, in the proportions of their
    classes, at least one of each; a k-shot list holds k records of each class, of different patients while they last
    (task multi_label: k with each finding and k with none, and more where one record shows several).

    Args:
      folder: of the dataset.
      split: its name; fractions below 1 and shots are of "train" only.
      fraction: of the patients; one of those that the dataset was built with (1, 0.5, 0.1, 0.01, 0.001).
      shots: records of each class; None: all.

    Raises:
      UserError: an unknown split or fraction, more shots than a class has records, both at once, a dataset without
        splits.parquet, or one whose file was changed.
    """
    card = open_split(folder, split).card
    if fraction == 1.0 and shots is None:
        return np.arange(card.splits[split])
    if fraction != 1.0 and shots is not None:
        raise UserError("a subset is either a fraction or a k-shot list", got=f"fraction {fraction:g}, shots {shots}")
    if split != TRAIN:
        raise UserError(f"subsets are made of the split {TRAIN!r} only", got=repr(split))
    path = Path(folder, SPLITS_FILE)
    made = _open(path, card)
    column = "shot" if shots is not None else "fraction"
    limit = _shots(made, shots) if shots is not None else _fraction(made, fraction)
    table = pq.read_table(path, columns=["index", column], filters=[("split", "=", split)]).sort_by("index")
    values = table[column].to_numpy()
    return np.flatnonzero(values <= limit)  # null = NaN, which is in no list


def open_subset(folder: str | Path, split: str, *, fraction: float = 1.0, shots: int = 0) -> Split:
    """Opens a subset of a split as a split of its own: its length, labels, manifest and batches are the subset's.

    Args:
      folder: of the dataset.
      split: its name.
      fraction: of the patients, see `subset_indices`; 1 for all.
      shots: records of each class; 0 for all.

    Raises:
      UserError: as of `subset_indices`.
    """
    whole = open_split(folder, split)
    if fraction == 1.0 and not shots:
        return whole
    rows = subset_indices(whole.folder, split, fraction=fraction, shots=shots or None)
    part = f"{shots} shots" if shots else f"fraction {fraction:g}"
    return dataclasses.replace(whole, part=part, rows=rows)


def _open(path: Path, card: DatasetCard) -> dict[str, Any]:
    """The metadata of the file, whose bytes are checked against the card."""
    fix = "build the dataset anew"
    if not card.splits_sha256 or not path.is_file():
        raise UserError(f"the dataset in {path.parent} has no {SPLITS_FILE}", fix=fix)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.splits_sha256:
        raise UserError(
            f"{path} is not what the build wrote",
            got=f"SHA-256 {found[:16]}...",
            expected=f"{card.splits_sha256[:16]}...",
            fix=fix,
        )
    made: dict[str, Any] = json.loads(pq.read_schema(path).metadata[SUBSETS_KEY])
    return made


def _fraction(made: dict[str, Any], asked: float) -> float:
    found = [f for f in made["fractions"] if math.isclose(f, asked, rel_tol=1e-6)]
    if not found:
        raise UserError(
            "unknown fraction", got=asked, expected=f"one of {', '.join(f'{f:g}' for f in made['fractions'])}"
        )
    return float(found[0])


def _shots(made: dict[str, Any], asked: int) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 1:
        raise UserError("shots", got=repr(asked), expected="a whole number of at least 1")
    if not made["shots"]:
        raise UserError("the dataset has no classes to take shots of", got=f"shots {asked}")
    name, least = min(made["shots"].items(), key=lambda item: item[1])
    if asked > least:
        raise UserError(f"class {name!r} has {least} record(s)", got=f"shots {asked}", expected=f"at most {least}")
    return int(asked)
