"""The card of a built dataset: what its records mean. Written by `data_prep`, read wherever the dataset is opened."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

CARD_FILE = "card.json"
MANIFEST_FILE = "manifest.parquet"
FORMAT = 1
TASKS = ("single_label", "multi_label", "none")


@dataclasses.dataclass(frozen=True)
class Member:
    """A dataset in a mixture.

    Attributes:
      name: in the mixture.
      weight: how often its training records are to be drawn, relative to the other members' weights.
      fingerprint: of the member's card.
      splits: number of its records in each split.
      crossing: the declared way of its pixels into the mixture's.
    """

    name: str
    weight: float
    fingerprint: str
    splits: Mapping[str, int]
    crossing: str


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """What a built dataset holds.

    Attributes:
      name: dataset name, as in `--dataset`.
      version: version of the dataset's rules.
      task: "single_label" (record key `label`, -1 = unlabelled), "multi_label" (`labels`, `label_mask`) or "none".
      labels: names of the classes or findings, in index order.
      stored: what the pixels are.
      splits: number of records in each split.
      fingerprint: SHA-256 over what the records are made of (source digests, rules, splits); equal for equal builds.
      splits_sha256: of the file splits.parquet (see `subsets.py`), whose ids depend on the salt; "" without that file.
      generated: whether the images are generated, hence of no patient.
      segmentation: names of the mask values 1, 2, ... of the record key `segmentation` (0 = background, 255 = unknown);
        empty where the records have no masks.
      members: of a mixture; the records of a split stand in their order, those of a member side by side.
    """

    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    stored: StoredPixels
    splits: Mapping[str, int]
    fingerprint: str
    splits_sha256: str = ""
    generated: bool = False
    segmentation: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()

    def write(self, folder: str | Path) -> None:
        data = dataclasses.asdict(self) | {"format": FORMAT}
        Path(folder, CARD_FILE).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def read_card(folder: str | Path) -> DatasetCard:
    """Reads the card of the dataset in `folder`; a UserError where there is none, or one of another format."""
    path = Path(folder, CARD_FILE)
    if not path.is_file():
        raise UserError(
            f"no dataset in {folder}",
            expected=f"a folder with {CARD_FILE}, as data_prep.build writes it",
            fix="build it: python -m data_prep.build --dataset=NAME --source=DIR --out=DIR",
        )
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        got = data.pop("format", None)
        if got != FORMAT:
            raise UserError(f"dataset card {path} has another format", got=got, expected=FORMAT, fix="rebuild it")
        data["stored"] = StoredPixels.from_json(data["stored"])
        data["labels"] = tuple(data["labels"])
        data["segmentation"] = tuple(data.get("segmentation", ()))  # older cards do without
        data["members"] = tuple(Member(**member) for member in data.get("members", ()))
        return DatasetCard(**data)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"dataset card {path} can't be read ({error})", fix="rebuild the dataset") from error
