"""Folders of PNG or JPEG images, one folder a class."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import os
from pathlib import Path, PurePosixPath

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.files import walk
from data_prep.ingest.image import SUFFIXES, fit, read_image
from data_prep.spec import DATASETS, SPLIT_NAMES, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels


@DATASETS.register("image_folder")
def image_folder(source: Path, size: int, modality: str = "photo", channels: int = 3) -> DatasetSpec:
    """Class folders of 8-bit PNG or JPEG files (SOURCE/cat/1.png, SOURCE/dog/x.jpg): labels are the folders' names, in
    alphabetic order. Split folders on top are honoured where the top level holds nothing else (SOURCE/train/cat/1.png;
    names train, val, test; a split without a folder is taken from train). Images without any folder are unlabelled.
    Every image counts as a patient of its own, so several images of one person may part: where patients are known,
    don't use it to measure. Options: --modality=photo|XR|MR|US|fundus, --channels=3|1.
    """
    if channels not in (1, 3):
        raise UserError("image_folder: channels", got=channels, expected="1 or 3")
    split_folders = _split_folders(source)
    labels = _class_names(source, split_folders)
    return DatasetSpec(
        name="image_folder",
        version="1.0.0",
        task="single_label" if labels else "none",
        labels=labels,
        stored=StoredPixels(modality, "none", (0.0, 255.0), (size, size), channels, "stretch_area", "uint8"),
        facts=(),
        candidates=_candidates,
        rows=functools.partial(_rows, labels=labels, split_folders=split_folders),
        encode=functools.partial(_encode, size=size, channels=channels),
        single_file=True,
        no_patients=modality == "photo",
    )


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _split_folders(source: Path) -> tuple[str, ...]:
    found = tuple(_folders(source))
    return found if found and set(found) <= set(SPLIT_NAMES) else ()


def _class_names(source: Path, split_folders: tuple[str, ...]) -> tuple[str, ...]:
    tops = [source / s for s in split_folders] or [source]
    return tuple(sorted({name for top in tops for name in _folders(top)}))


def _candidates(source: Path) -> Iterator[Candidate]:
    return (Candidate(path) for path in walk(source))


def _rows(source: Path, candidate: Candidate, *, labels: tuple[str, ...], split_folders: tuple[str, ...]) -> list[Row]:
    path = PurePosixPath(candidate.path)
    if path.suffix.lower() not in SUFFIXES:
        raise Reject("not_an_image_name", path.suffix)
    folders = list(path.parts[:-1])
    pool = ""
    if split_folders:
        if not folders:
            raise Reject("outside_split_folders")
        split = folders.pop(0)
        # Splits that have no folder of their own are taken out of train.
        missing = [s for s in SPLIT_NAMES if s not in split_folders]
        pool = "+".join([split, *missing]) if split == "train" else split
    if labels and not folders:
        raise Reject("outside_class_folders")
    label = labels.index(folders[0]) if labels else -1
    return [Row(path=candidate.path, identity=candidate.path, patient="", stratum=label, label=label, pool=pool)]


def _encode(source: Path, path: str, frame: int, *, size: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    return fit(read_image(source / path, channels), (size, size), "stretch_area", 0)
