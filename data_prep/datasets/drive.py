"""DRIVE (Staal et al. 2004): retinal vessels in colour fundus photographs."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
import re

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.files import walk
from data_prep.ingest.image import fit, fit_mask, pad_square, read_image
from data_prep.ingest.masks import image_size, read_foreground
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import UNKNOWN_MASK, StoredPixels

OUTSIDE = ("unknown", "background")
OBSERVERS = (1, 2)
_IMAGE = re.compile(r"(\d+)_(training|test)\.tif")


@DATASETS.register("drive")
def drive(source: Path, size: int, outside: str = "unknown", observer: int = 1) -> DatasetSpec:
    """DRIVE, 40 fundus photographs: training/ and test/ with images/21_training.tif, 1st_manual/21_manual1.gif (the
    vessels) and mask/21_training_mask.gif (field of view), in any folder below the source. From
    drive.grand-challenge.org, for research with citation. Mask: vessel = 1. test/ is the test split, val a part of
    training/; the present release has no test/1st_manual: the images of test/ are then rejected and all splits are made
    of training/. An image is a patient.
    Options: --outside=unknown (pixels outside of the field of view are 255 and count nowhere, as in the set's own
    evaluation) or background (they count as no vessel, as in the transfer benchmark), --observer=2 (test masks of the
    second observer, 2nd_manual, to measure people by).
    """
    if outside not in OUTSIDE:
        raise UserError("drive: outside", got=repr(outside), expected="unknown or background")
    if observer not in OBSERVERS:
        raise UserError("drive: observer", got=observer, expected="1 or 2")
    images = [PurePosixPath(candidate.path) for candidate in _candidates(source)]
    if not images:
        raise UserError("source is not in the layout of DRIVE", expected="training/images/21_training.tif and so on")
    rules = functools.partial(_manual, observer=observer)
    official = any((source / rules(path)).is_file() for path in images if "_test" in path.name)
    if observer == 2 and not official:
        raise UserError("drive: observer 2", got="no test/2nd_manual", expected="the release that has it")
    return DatasetSpec(
        name="drive",
        version="1.0.0",
        task="none",
        labels=(),
        stored=StoredPixels("fundus", "none", (0.0, 255.0), (size, size), 3, "pad_area", "uint8"),
        facts=(),
        candidates=_candidates,
        rows=functools.partial(_rows, observer=observer, official=official),
        encode=functools.partial(_encode, size=size),
        segmentation=("vessel",),
        encode_mask=functools.partial(_encode_mask, size=size, outside=UNKNOWN_MASK if outside == "unknown" else 0),
    )


def _candidates(source: Path) -> Iterator[Candidate]:
    for path in walk(source):
        if _IMAGE.fullmatch(PurePosixPath(path).name):
            yield Candidate(path)


def _manual(image: PurePosixPath, *, observer: int) -> PurePosixPath:
    number, part = image.stem.split("_")
    rank, folder = (2, "2nd_manual") if part == "test" and observer == 2 else (1, "1st_manual")
    return image.parent.parent / folder / f"{number}_manual{rank}.gif"


def _field(image: PurePosixPath) -> PurePosixPath:
    return image.parent.parent / "mask" / f"{image.stem}_mask.gif"


def _rows(source: Path, candidate: Candidate, *, observer: int, official: bool) -> list[Row]:
    path = PurePosixPath(candidate.path)
    mask = _manual(path, observer=observer)
    if not (source / mask).is_file() or not (source / _field(path)).is_file():
        raise Reject("missing_mask")
    number, part = path.stem.split("_")
    return [
        Row(
            path=str(path),
            identity=f"drive {path.stem}",
            patient=f"drive {int(number)}",
            mask=str(mask),
            pool=("test" if part == "test" else "train+val") if official else "",
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 3"]:
    return fit(read_image(source / path, 3), (size, size), "pad_area", 0)


def _encode_mask(
    source: Path, path: str, mask: str, frame: int, *, size: int, outside: int
) -> UInt8[np.ndarray, "h w"]:
    shape = image_size(source / path)
    vessels = read_foreground([source / mask], shape)
    vessels[read_foreground([source / _field(PurePosixPath(path))], shape) == 0] = outside
    square = pad_square(vessels[..., None], outside)[..., 0]
    return fit_mask(square, (size, size), "pad_area")
