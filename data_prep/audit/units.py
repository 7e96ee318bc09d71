"""What an audit reads of a dataset: its manifest, as numbers, and single records on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Int32, UInt64
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.manifest import BUILD_FILE
from radnet_jax.data.cache import SUMS_FILE, local_dataset
from radnet_jax.data.card import MANIFEST_FILE, DatasetCard, read_card
from radnet_jax.data.dataset import Split
from radnet_jax.data.storage import is_remote
from radnet_jax.errors import UserError

_COLUMNS = ("split", "patient", "source", "phash", "rows", "columns")
INFO_FILE = "dataset_info.json"  # without which TFDS opens nothing
_BATCH = 1 << 16


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A finished dataset.

    Attributes:
      name: what the audit calls it: the name of its folder, or its path where two have the same name.
      place: folder or URL, as it was given.
      folder: with its metadata; of a URL the local copy.
      card: what its records are.
      salt: fingerprint of the salt of its hashed ids.
      nobody: whether its images are generated or photographs, so that there are no patients to match.
      note: what its build said of patients that are not known, or "".
    """

    name: str
    place: str
    folder: Path
    card: DatasetCard
    salt: str
    nobody: bool
    note: str

    def records(self, split: str) -> Split:
        """The records of a split; those of a URL are copied here once they are needed.

        Raises:
          UserError: records are missing beside the manifest.
        """
        folder = local_dataset(self.place, split)
        names = [name for name in _sums(folder) if f"-{split}.array_record-" in name]
        lacking = sum(not (folder / name).is_file() for name in names)
        if lacking or not (folder / INFO_FILE).is_file():
            raise UserError(
                f"records of {self.name} {split} are missing",
                got=f"{len(names) - lacking} of {len(names)} files",
                fix="copy the dataset again, with all of its files",
            )
        return Split(self.card, folder, split)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One split of a dataset as numbers, a row for each record in record order.

    Attributes:
      dataset: whose split it is.
      split: its name.
      start: number of its first row in the manifest.
      patients: the first 64 bits of the hashed patient; of n patients two share them with a chance of n^2 / 2^65.
      sources: of the hashed file, likewise.
      hashes: perceptual hashes.
      hashed: whether there is one; plain images have none.
      sizes: rows and columns of the raw image, 0 where not known.
    """

    dataset: Dataset
    split: str
    start: int
    patients: UInt64[np.ndarray, " n"]
    sources: UInt64[np.ndarray, " n"]
    hashes: UInt64[np.ndarray, " n"]
    hashed: Bool[np.ndarray, " n"]
    sizes: Int32[np.ndarray, "n 2"]

    @functools.cached_property
    def records(self) -> Split:
        return self.dataset.records(self.split)

    def raw_size(self, place: int) -> tuple[int, int] | None:
        rows, columns = (int(n) for n in self.sizes[place])
        return (rows, columns) if rows else None

    def cells(self, column: str, places: Sequence[int] | np.ndarray) -> list[str]:
        """Values of a text column of the manifest at some records."""
        wanted = np.asarray(places, np.int64) + self.start
        out = np.empty(len(wanted), object)
        for first, batch in _batches(self.dataset.folder, (column,)):
            here = np.flatnonzero((wanted >= first) & (wanted < first + batch.num_rows))
            if len(here):
                out[here] = batch[column].take(pa.array(wanted[here] - first)).to_pylist()
        return out.tolist()


def open_datasets(folders: Sequence[str | os.PathLike[str]]) -> list[Dataset]:
    """Opens finished datasets in folders or, by URL, in object stores.

    Raises:
      UserError: none, no dataset, an unfinished one or one of an older version in a folder, a folder given twice.
    """
    if not folders:
        raise UserError("no dataset to audit", expected="folders of one or more built datasets")
    places = [str(folder) for folder in folders]
    resolved = [place.rstrip("/") if is_remote(place) else str(Path(place).resolve()) for place in places]
    if len(set(resolved)) != len(resolved):
        raise UserError("a dataset is given twice", fix="name each folder once")
    names = [place.rpartition("/")[2] for place in resolved]
    return [
        _open(place, name if names.count(name) == 1 else given)
        for place, name, given in zip(resolved, names, places, strict=True)
    ]


def _open(place: str, name: str) -> Dataset:
    folder = local_dataset(place, "")  # metadata only
    card = read_card(folder)
    old = UserError(f"the dataset in {place} has no hashes to audit by", fix="build it again with this version")
    try:
        build = json.loads((folder / BUILD_FILE).read_text())
        columns = pq.read_schema(folder / MANIFEST_FILE).names
        patients = build["patients"]
        found = Dataset(name, place, folder, card, build["salt"]["fingerprint"], patients["nobody"], patients["note"])
        _sums(folder)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise old from error
    if not set(_COLUMNS) <= set(columns):
        raise old
    return found


def _sums(folder: Path) -> dict[str, Any]:
    return json.loads((folder / SUMS_FILE).read_text())


def read_units(dataset: Dataset) -> list[Unit]:
    """Reads the splits of a dataset, about 40 bytes a record.

    Raises:
      UserError: a manifest that does not fit its card.
    """
    numbers: dict[str, list[tuple[np.ndarray, ...]]] = {}
    starts: dict[str, int] = {}
    for first, batch in _batches(dataset.folder, _COLUMNS):
        splits = batch["split"].dictionary_encode()
        for code, name in enumerate(splits.dictionary.to_pylist()):
            mask = splits.indices.to_numpy() == code
            starts.setdefault(name, first + int(mask.argmax()))
            numbers.setdefault(name, []).append(_numbers(batch.filter(pa.array(mask))))
    counts = {name: sum(len(p[0]) for p in found) for name, found in numbers.items()}
    if counts != {name: n for name, n in dataset.card.splits.items() if n}:
        raise UserError(f"the manifest of {dataset.folder} does not fit its card", fix="build it again")
    return [
        Unit(dataset, name, starts[name], *(np.concatenate(columns) for columns in zip(*found, strict=True)))
        for name, found in numbers.items()
    ]


def _batches(folder: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    with pq.ParquetFile(folder / MANIFEST_FILE) as file:
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            yield first, batch
            first += batch.num_rows


def _numbers(batch: pa.RecordBatch) -> tuple[np.ndarray, ...]:
    hashes = batch["phash"]
    sizes = np.stack([batch[c].fill_null(0).to_numpy() for c in ("rows", "columns")], axis=1)
    return (
        _leading_bits(batch["patient"]), _leading_bits(batch["source"]), hashes.fill_null(0).to_numpy(),
        ~hashes.is_null().to_numpy(zero_copy_only=False), sizes.astype(np.int32),
    )  # fmt: skip


def _leading_bits(column: pa.Array) -> UInt64[np.ndarray, " n"]:
    """The first 16 hexadecimal digits of each cell as a number."""
    digits = np.array(column.to_pylist(), "S16").view(np.uint8).reshape(len(column), 16)
    values = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0")).astype(np.uint64)
    return (values << np.arange(60, -1, -4, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
