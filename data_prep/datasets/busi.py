"""BUSI (Al-Dhabyani et al. 2020): breast ultrasound, lesions and their kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
import contextlib
import functools
import hashlib
from pathlib import Path, PurePosixPath
import re

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.files import Version, walk
from data_prep.ingest.image import fit, fit_mask, read_image
from data_prep.ingest.masks import image_size, read_foreground
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

CLASSES = ("normal", "benign", "malignant")
_IMAGE = re.compile(r"(benign|malignant|normal) \((\d+)\)\.png")


@DATASETS.register("busi")
def busi(source: Path, size: int) -> DatasetSpec:
    """BUSI, 780 ultrasound images of 600 women: benign/benign (1).png, malignant/malignant (1).png and
    normal/normal (1).png, each beside its mask "benign (1)_mask.png"; further lesions in "benign (1)_mask_1.png" and so
    on, joined to one mask (lesion = 1). The folders lie in Dataset_BUSI_with_GT or anywhere below the source. From
    scholar.cu.edu.eg/?q=afahmy/pages/dataset (or its mirrors), to cite. Labels: normal, benign, malignant. Nobody has
    said which images are of one woman, so that each counts as a patient and splits are not safe for them; 235 images
    have a near-duplicate (Pawłowska et al. 2023), which the audit finds. Copies that are equal byte for byte are
    rejected (duplicate), all of them where they stand in several classes (two_classes).
    """
    if next(_images(source), None) is None:
        raise UserError("source is not in the layout of BUSI", expected='benign/"benign (1).png" and so on')
    return DatasetSpec(
        name="busi",
        version="1.0.0",
        task="single_label",
        labels=CLASSES,
        stored=StoredPixels("US", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=(),
        candidates=_candidates,
        rows=_rows,
        encode=functools.partial(_encode, size=size),
        segmentation=("lesion",),
        encode_mask=functools.partial(_encode_mask, size=size),
    )


def _images(source: Path) -> Iterator[str]:
    return (path for path in walk(source) if _IMAGE.fullmatch(PurePosixPath(path).name))


def _candidates(source: Path) -> Iterator[Candidate]:
    """The images, each with those of other classes that have its length and so may be its copies."""
    lengths: dict[int, list[str]] = defaultdict(list)
    for path in _images(source):
        if (source / path).is_file():
            lengths[(source / path).stat().st_size].append(path)
    alike = {path: paths for paths in lengths.values() for path in paths}
    for path in _images(source):
        others = [other for other in alike.get(path, []) if _class(other) != _class(path)]
        yield Candidate(path, {"others": "\0".join(others)})


def _class(path: str) -> str:
    return PurePosixPath(path).name.split(" ")[0]


@functools.lru_cache(maxsize=1024)  # asked for by each image of its length
def _digest(version: Version) -> str:
    return hashlib.sha256(version.path.read_bytes()).hexdigest()


def _rows(source: Path, candidate: Candidate) -> list[Row]:
    path = PurePosixPath(candidate.path)
    if not (source / path).is_file():
        raise Reject("missing_file", "a dangling link, a pipe or the like")
    try:
        digest = _digest(Version.of(source / path))
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    for other in filter(None, candidate.entry["others"].split("\0")):
        with contextlib.suppress(OSError):  # rejected itself
            if _digest(Version.of(source / other)) == digest:
                raise Reject("two_classes")
    mask = path.with_name(f"{path.stem}_mask.png")
    if not (source / mask).is_file():
        raise Reject("missing_mask")
    label = CLASSES.index(_class(candidate.path))
    return [
        Row(
            path=str(path),
            identity=f"busi {digest}",
            patient="",
            stratum=label,
            label=label,
            mask=str(mask),
            size=image_size(source / path),
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_image(source / path, 1), (size, size), "pad_area", 0)


def _encode_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    first = source / mask
    files = [first]
    while (further := first.with_name(f"{first.stem}_{len(files)}.png")).is_file():
        files.append(further)
    return fit_mask(read_foreground(files, image_size(source / path)), (size, size), "pad_area")
