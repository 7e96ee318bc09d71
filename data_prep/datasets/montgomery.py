"""Montgomery County chest X-rays (Jaeger et al. 2014; Candemir et al. 2014): lungs, normal or tuberculosis."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
import re

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band, sex
from data_prep.ingest.files import walk
from data_prep.ingest.image import fit, fit_mask, read_values
from data_prep.ingest.masks import image_size, read_foreground
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

SIDES = ("leftMask", "rightMask")
MAX_VALUE = 4095  # of the scanner; some copies of the set keep its 12 bits
_IMAGE = re.compile(r"MCUCXR_(\d+)_([01])\.png")


@DATASETS.register("montgomery")
def montgomery(source: Path, size: int) -> DatasetSpec:
    """Montgomery County set (138 frontal X-rays, 58 with tuberculosis): CXR_png/MCUCXR_0001_0.png (the last digit:
    1 = tuberculosis), ManualMask/leftMask and ManualMask/rightMask with the same names, ClinicalReadings/*.txt (sex,
    age), in MontgomerySet or anywhere below the source. From lhncbc.nlm.nih.gov (Tuberculosis Chest X-ray Image Data
    Sets), free to use with citation. Mask: lung = 1, left and right joined; labels: normal, tuberculosis. An image is
    a patient; splits are made by patient and balanced by label.
    """
    if not any(True for _ in _candidates(source)):
        raise UserError("source is not in the layout of the Montgomery set", expected="CXR_png/MCUCXR_0001_0.png, ...")
    root = (source / next(_candidates(source)).path).parent.parent
    lacking = [f"ManualMask/{side}" for side in SIDES if not (root / "ManualMask" / side).is_dir()]
    if lacking:
        raise UserError(f"the folder {lacking[0]} is missing", expected="ManualMask/leftMask and ManualMask/rightMask")
    return DatasetSpec(
        name="montgomery",
        version="1.0.0",
        task="single_label",
        labels=("normal", "tuberculosis"),
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band"),
        candidates=_candidates,
        rows=_rows,
        encode=functools.partial(_encode, size=size),
        segmentation=("lung",),
        encode_mask=functools.partial(_encode_mask, size=size),
    )


def _candidates(source: Path) -> Iterator[Candidate]:
    for path in walk(source):
        if PurePosixPath(path).parent.name == "CXR_png" and path.lower().endswith(".png"):
            yield Candidate(path)


def _rows(source: Path, candidate: Candidate) -> list[Row]:
    path = PurePosixPath(candidate.path)
    match = _IMAGE.fullmatch(path.name)
    if not match:
        raise Reject("unknown_name", path.name)
    masks = [path.parent.parent / "ManualMask" / side / path.name for side in SIDES]
    if not all((source / mask).is_file() for mask in masks):
        raise Reject("missing_mask")
    reading = read_reading(source / path.parent.parent / "ClinicalReadings" / f"{path.stem}.txt")
    label = int(match[2])
    return [
        Row(
            path=str(path),
            identity=f"montgomery {path.stem}",
            patient=f"montgomery {int(match[1])}",
            stratum=label,
            label=label,
            mask=str(masks[0]),
            size=image_size(source / path),
            facts={
                "sex": sex(_after("Patient's Sex:", reading)),
                "age_band": age_band(_after("Patient's Age:", reading)),
            },
        )
    ]


def read_reading(path: Path) -> str:
    """The text of a clinical reading; "" where there is none.

    Raises:
      Reject: unreadable_reading.
    """
    if not (path.exists() or path.is_symlink()):
        return ""
    if not path.is_file():
        raise Reject("unreadable_reading", "not a regular file")
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise Reject("unreadable_reading", str(error)) from error


def _after(name: str, text: str) -> str:
    found = re.search(re.escape(name) + r"[ \t]*(\w*)", text)
    return found[1] if found else ""


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    values = read_values(source / path, 1)
    if values.dtype != np.uint8:
        values = np.rint(values.clip(0, MAX_VALUE) * (255 / MAX_VALUE)).astype(np.uint8)
    return fit(values, (size, size), "pad_area", 0)


def _encode_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    left = PurePosixPath(mask)
    right = left.parent.parent / SIDES[1] / left.name
    lungs = read_foreground([source / left, source / right], image_size(source / path))
    return fit_mask(lungs, (size, size), "pad_area")
