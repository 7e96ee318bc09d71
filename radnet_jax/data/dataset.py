"""Opens a built dataset: random access to decoded records, and its manifest. Imports no jax."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxtyping import Float
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radnet_jax.data.cache import local_dataset
from radnet_jax.data.card import MANIFEST_FILE, DatasetCard, read_card
from radnet_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a built dataset, with random access: `split[i]` is one example (see `example`)."""

    card: DatasetCard
    folder: Path
    name: str

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds  # slow to import; workers and tools that only read the card do without

        return tfds.builder_from_directory(str(self.folder)).as_data_source(self.name)

    def __len__(self) -> int:
        return self.card.splits[self.name]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns `image [h w c]`, `labels [k]`, `label_mask [k]` float32 and `index` (0..n-1) of one record; with
        masks also `segmentation [h w]` uint8 (0 = background, 255 = unknown).
        """
        record = self._source[int(index)]
        labels, label_mask = _labels(record, self.card)
        masks = {"segmentation": record["segmentation"]} if self.card.segmentation else {}
        return masks | {
            "image": record["image"],
            "labels": labels,
            "label_mask": label_mask,
            "index": np.int32(index),
        }

    def all_labels(self) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        """Returns the labels and label masks of all records, from the manifest (no image is read)."""
        table = self.manifest()
        names = ("labels", "label_mask") if self.card.task == "multi_label" else ("label",)
        if self.card.task == "none":
            return np.zeros((len(self), 0), np.float32), np.zeros((len(self), 0), np.float32)
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        pairs = [_labels({k: np.asarray(v) for k, v in zip(names, row, strict=True)}, self.card) for row in rows]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    def __hash__(self) -> int:
        return hash((self.folder, self.name, self.card.fingerprint))

    def __reduce__(self) -> Any:
        return Split, (self.card, self.folder, self.name)

    def manifest(self) -> pa.Table:
        """Returns the rows of the manifest in record order: case_id, patient (hashed), labels and kept facts."""
        table = pq.read_table(self.folder / MANIFEST_FILE, filters=[("split", "=", self.name)])
        table = table.sort_by("index")
        if table.num_rows != len(self):
            raise UserError(
                f"the manifest of {self.folder} does not fit its records",
                got=f"{table.num_rows} rows for split {self.name}",
                expected=len(self),
                fix="rebuild the dataset",
            )
        return table


def _labels(record: dict[str, Any], card: DatasetCard) -> tuple[np.ndarray, np.ndarray]:
    k = len(card.labels)
    if card.task == "multi_label":
        return record["labels"].astype(np.float32), record["label_mask"].astype(np.float32)
    labels = np.zeros(k, np.float32)
    if card.task == "none" or record["label"] < 0:
        return labels, np.zeros(k, np.float32)
    labels[record["label"]] = 1.0
    return labels, np.ones(k, np.float32)


def open_split(folder: str | Path, name: str) -> Split:
    """Opens split `name` of the dataset in `folder`, or at a URL through a local copy; an unknown or empty split is
    refused.
    """
    local = local_dataset(folder, name)
    card = read_card(local)
    if not card.splits.get(name):
        raise UserError(
            f"dataset {card.name} in {folder} has no split {name!r}{nearest(name, card.splits)}",
            expected=f"one of {', '.join(k for k, n in card.splits.items() if n)}",
        )
    return Split(card, local, name)
