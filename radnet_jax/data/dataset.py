"""Opens a built dataset: random access to decoded records, and its manifest. Imports no jax."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import cv2
from jaxtyping import Float, Int, Num
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radnet_jax.data.cache import local_dataset
from radnet_jax.data.card import MANIFEST_FILE, DatasetCard, read_card
from radnet_jax.data.example import Feature, Scanner, integers
from radnet_jax.data.order import Range
from radnet_jax.data.shards import Shards, image_codec
from radnet_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a built dataset, with random access.

    `split[i]` is one example; `allocate` and `read_into` make batches. An example has `image [h w c]` as stored,
    `labels [k]` and `label_mask [k]` float32, and `index` (0..n-1); with masks also `segmentation [h w]` uint8
    (0 = background, 255 = unknown).

    Attributes:
      card: of the dataset.
      folder: of the dataset.
      name: of the split.
      part: what of it this is, "" for all: a name for `rows`, which tells subsets apart.
      rows: records of a subset, ascending; None for all. The subset's own records are numbered from 0.
      judged: labels that results are about; () for all. Of the others nothing is known in `all_labels`.
    """

    card: DatasetCard
    folder: Path
    name: str
    part: str = ""
    rows: Int[np.ndarray, " n"] | None = dataclasses.field(default=None, compare=False, repr=False)
    judged: tuple[str, ...] = ()

    @functools.cached_property
    def _shards(self) -> Shards:
        return Shards(self.folder, self.name, self.card.splits[self.name])

    @functools.cached_property
    def _scan(self) -> Scanner:
        return Scanner()

    @functools.cached_property
    def _codec(self) -> str:
        return image_codec(self.folder)

    def open(self) -> None:
        """Looks for the files; a UserError where one is missing. Reading does it too, but late."""
        _ = self._shards, self._codec

    def __len__(self) -> int:
        return self.card.splits[self.name] if self.rows is None else len(self.rows)

    def whole(self) -> Split:
        """Returns the split that this is a subset of."""
        return dataclasses.replace(self, part="", rows=None)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch = self.allocate(1)
        self.read_into(batch, 0, [index])
        return {k: v[0] for k, v in batch.items()}

    def allocate(self, size: int) -> dict[str, np.ndarray]:
        """Returns arrays for `size` examples, to be filled by `read_into`."""
        stored, k = self.card.stored, len(self.card.labels)
        masks = {"segmentation": np.empty((size, *stored.size), np.uint8)} if self.card.segmentation else {}
        return masks | {
            "image": np.empty((size, *stored.size, stored.channels), stored.dtype),
            "labels": np.zeros((size, k), np.float32),
            "label_mask": np.zeros((size, k), np.float32),
            "index": np.empty(size, np.int32),
        }

    def read_into(self, batch: dict[str, np.ndarray], first: int, indices: Sequence[int]) -> None:
        """Reads records into rows `first`, `first + 1`, ... of a batch. Threads may do so at the same time.

        Raises:
          UserError: a shard is missing or damaged, or a record is not what the card says.
        """
        shards, scan, coded = self._shards, self._scan, self._codec != "raw"
        raw = [(name, batch[name].reshape(len(batch[name]), -1), dtype) for name, dtype in self._raw_fields()]
        classes = []
        places = indices if self.rows is None else self.rows[np.asarray(indices, int)].tolist()
        for row, index in enumerate(places, first):
            record = shards.read(index)
            try:
                features = scan(record)
                for name, rows, dtype in raw:
                    ((start, stop),) = features[name].spans
                    if stop - start != rows.shape[1] * dtype.itemsize:
                        raise ValueError(f"{name} of another size")
                    rows[row] = np.frombuffer(record, dtype, rows.shape[1], start)  # without the GIL
                if coded:
                    _decode(batch["image"][row], record, features["image"])
                if self.card.task == "single_label":
                    (label,) = integers(record, features["label"])
                    if label >= len(self.card.labels):
                        raise ValueError(f"label {label}")
                    classes.append(label)
            except (KeyError, ValueError, cv2.error) as error:
                raise shards.damaged(index) from error
        done = slice(first, first + len(indices))
        batch["index"][done] = indices
        if classes:
            batch["labels"][done], batch["label_mask"][done] = _one_hot(np.asarray(classes), len(self.card.labels))

    def _raw_fields(self) -> list[tuple[str, np.dtype]]:
        """Returns the fields whose values are raw bytes in the records, and their type there."""
        int8, uint8 = np.dtype("int8"), np.dtype("uint8")
        return [
            *([("image", np.dtype(self.card.stored.dtype))] if self._codec == "raw" else []),
            *([("segmentation", uint8)] if self.card.segmentation else []),
            *([("labels", int8), ("label_mask", int8)] if self.card.task == "multi_label" else []),
        ]

    def all_labels(self) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        """Returns the labels and label masks of all records, from the manifest (no image is read)."""
        k = len(self.card.labels)
        if self.card.task == "none":
            return np.zeros((len(self), k), np.float32), np.zeros((len(self), k), np.float32)
        table = self.manifest()
        if self.card.task == "multi_label":
            flat = (pc.list_flatten(table[name]).to_numpy() for name in ("labels", "label_mask"))
            labels, mask = (values.reshape(-1, k).astype(np.float32) for values in flat)
        else:
            labels, mask = _one_hot(table["label"].to_numpy(), k)
        if self.judged:
            mask = mask * np.isin(self.card.labels, self.judged).astype(np.float32)
        return labels, mask

    def members(self) -> tuple[Range, ...]:
        """Returns (first record, one past the last, weight) of each member of a mixture; () for any other dataset."""
        lengths = [member.splits.get(self.name, 0) for member in self.card.members]
        ends = itertools.accumulate(lengths)
        found = [(end - n, end, member.weight) for member, n, end in zip(self.card.members, lengths, ends)]
        if self.rows is not None:
            places = np.searchsorted(self.rows, [(start, end) for start, end, _ in found])
            found = [(int(a), int(b), weight) for (a, b), (_, _, weight) in zip(places, found)]
        return tuple((start, end, weight) for start, end, weight in found if start < end)

    def __hash__(self) -> int:
        return hash((self.folder, self.name, self.card.fingerprint, self.part, self.judged))

    def __reduce__(self) -> Any:
        return Split, (self.card, self.folder, self.name, self.part, self.rows, self.judged)

    def manifest(self) -> pa.Table:
        """Returns the rows of the manifest in record order: case_id, patient (hashed), labels and kept facts."""
        table = pq.read_table(self.folder / MANIFEST_FILE, filters=[("split", "=", self.name)])
        table = table.sort_by("index")
        if table.num_rows != (expected := self.card.splits[self.name]):
            raise UserError(
                f"the manifest of {self.folder} does not fit its records",
                got=f"{table.num_rows} rows for split {self.name}",
                expected=expected,
                fix="rebuild the dataset",
            )
        return table if self.rows is None else table.take(self.rows)


def _one_hot(classes: Int[np.ndarray, " n"], k: int) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Returns the labels and label masks of class indices, -1 = unlabelled."""
    labels = (classes[:, None] == np.arange(k)).astype(np.float32)
    return labels, np.repeat((classes[:, None] >= 0).astype(np.float32), k, axis=1)


def _decode(out: Num[np.ndarray, "h w c"], record: bytes, feature: Feature) -> None:
    """Decodes a PNG or JPEG into `out`; OpenCV lets go of the GIL."""
    ((start, stop),) = feature.spans
    image = cv2.imdecode(np.frombuffer(record, np.uint8, stop - start, start), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != out.dtype or image.reshape(*image.shape[:2], -1).shape != out.shape:
        raise ValueError("an image that can't be decoded, or is not what the card says")
    if image.ndim == 3:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
    else:
        out[..., 0] = image


def open_split(folder: str | Path, name: str) -> Split:
    """Opens split `name` of the dataset in `folder`, or at a URL through a local copy.

    Refuses an unknown or empty split, or one with missing files.
    """
    local = local_dataset(folder, name)
    card = read_card(local)
    if not card.splits.get(name):
        raise UserError(
            f"dataset {card.name} in {folder} has no split {name!r}{nearest(name, card.splits)}",
            expected=f"one of {', '.join(k for k, n in card.splits.items() if n)}",
        )
    split = Split(card, local, name)
    split.open()
    return split
