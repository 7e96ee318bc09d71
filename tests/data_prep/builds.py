"""Miniatures built into datasets and read back."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep.build import build
from data_prep.manifest import BUILD_FILE
from data_prep.miniatures import write_miniature
from radnet_jax.data.card import DatasetCard


class Built(NamedTuple):
    """A dataset read back; a record is what is stored and its row of the manifest, in order."""

    card: DatasetCard
    records: list[dict[str, Any]]
    rejected: dict[str, int]

    def of(self, split: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["split"] == split]


def built(dataset: str, source: Path, out: Path, **options: Any) -> Built:
    """Builds `source` and reads it back."""
    card = build(dataset, source, out, log=lambda line: None, **options)
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    stored = {split: iter(tfds.builder_from_directory(out).as_data_source(split)) for split in card.splits}
    records = [row | next(stored[row["split"]]) for row in rows]
    assert all(next(rest, None) is None for rest in stored.values())
    return Built(card, records, json.loads((out / BUILD_FILE).read_text())["rejected"])


def built_miniature(folder: Path, dataset: str, name: str = "", **options: Any) -> Built:
    """Builds the miniature of a dataset, or the one called `name`."""
    return built(dataset, write_miniature(name or dataset, folder / "in"), folder / "out", **options)
