"""iNaturalist 2021 (Van Horn et al. 2021): photographs of 10,000 species."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
import functools
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.photographs import check_official_val, photographs, train_pool, val_pools
from data_prep.spec import DATASETS, Candidate, DatasetSpec
from radnet_jax.errors import UserError

ANNOTATIONS = "val.json"  # its categories are those of train.json too, which is a hundred times as large
TRAIN = {"full": "train", "mini": "train_mini"}


@DATASETS.register("inaturalist")
def inaturalist(source: Path, size: int, train: str = "full", official_val: str = "halves") -> DatasetSpec:
    """iNaturalist 2021 as unpacked: train/00000_Animalia_.../UUID.jpg (or train_mini/ for --train=mini), val/ likewise,
    and val.json (the annotations of val, with the categories of all). From github.com/visipedia/inat_comp (2021),
    terms: research and education only, no sharing.
    Labels: categories, named as their folders, in the order of their ids.
    Splits: the official test has no labels. --official_val=halves (default): half of each category of the official
    validation images is val, half test; --official_val=test: all of them are test, val is taken out of train.
    Options: --train=full|mini (2.7 million training images, or 50 of each category).
    """
    if train not in TRAIN:
        raise UserError("inaturalist: train", got=repr(train), expected="full or mini")
    check_official_val("inaturalist", official_val)
    for folder in (TRAIN[train], "val"):
        if not (source / folder).is_dir():
            raise UserError(f"source lacks the folder {folder}", expected=f"{TRAIN[train]}, val and {ANNOTATIONS}")
    labels = _categories(_annotations(source))
    candidates = functools.partial(_candidates, labels=labels, folder=TRAIN[train], official_val=official_val)
    return photographs("inaturalist", size, labels, candidates, _identity, "unknown_category", (ANNOTATIONS,))


def _annotations(source: Path) -> dict[str, list[dict[str, Any]]]:
    """Categories, images and annotations of val.json."""
    if not (source / ANNOTATIONS).is_file():
        raise UserError(f"source lacks {ANNOTATIONS}", expected="the annotations of the official validation images")
    try:
        data = json.loads((source / ANNOTATIONS).read_bytes())
        return {
            "categories": [{"id": int(c["id"]), "folder": str(c["image_dir_name"])} for c in data["categories"]],
            "images": [{"id": int(i["id"]), "path": str(i["file_name"])} for i in data["images"]],
            "annotations": [{"image": int(a["image_id"]), "label": int(a["category_id"])} for a in data["annotations"]],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{ANNOTATIONS} can't be read",
            got=f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else type(error).__name__,
            expected="categories, images and annotations as iNaturalist 2021 publishes them",
        ) from error


def _categories(annotations: dict[str, list[dict[str, Any]]]) -> tuple[str, ...]:
    folders = {c["id"]: c["folder"] for c in annotations["categories"]}
    if sorted(folders) != list(range(len(folders))) or not folders:
        raise UserError(f"{ANNOTATIONS}: the ids of the categories are not 0, 1, 2, ...", got=f"{len(folders)} of them")
    return tuple(folders[index] for index in range(len(folders)))


def _candidates(source: Path, *, labels: tuple[str, ...], folder: str, official_val: str) -> Iterator[Candidate]:
    pool, index = train_pool(official_val), {name: str(number) for number, name in enumerate(labels)}
    for name in sorted(entry.name for entry in os.scandir(source / folder) if entry.is_dir()):
        for file in sorted(entry.name for entry in os.scandir(source / folder / name)):
            yield Candidate(str(PurePosixPath(folder, name, file)), {"label": index.get(name, ""), "pool": pool})
    annotations = _annotations(source)
    paths = {image["id"]: image["path"] for image in annotations["images"]}
    val: dict[int, list[str]] = defaultdict(list)
    for annotation in annotations["annotations"]:
        val[annotation["label"]].append(paths.get(annotation["image"], ""))
    for label in range(len(labels)):
        for path, split in val_pools(val[label], official_val):
            yield Candidate(path, {"label": str(label), "pool": split})


def _identity(path: PurePosixPath) -> str:
    return f"inaturalist {path.parent.name}/{path.stem}"
