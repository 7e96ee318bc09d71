"""Shenzhen chest X-ray set (Jaeger et al. 2014): tuberculosis or normal."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
import re

from jaxtyping import UInt8
import numpy as np

from data_prep.datasets.montgomery import read_reading
from data_prep.facts import age_band, sex
from data_prep.ingest.image import fit, read_image
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

LABELS = ("normal", "tuberculosis")
FOLDERS = ("", "ChinaSet_AllFiles", "Shenzhen-Hospital-CXR-Set")
READINGS = "ClinicalReadings"
_NAME = re.compile(r"CHNCXR_(\d{4})_([01])\.png")
# The readings are typed by hand: "male 45yrs", "femal, 32yrs", "Female 16month", "female 64days".
_READING = re.compile(r"\W*(male|femal)e?\W*(\d{1,3})\s*(yr|year|month|day)?", re.IGNORECASE)


@DATASETS.register("shenzhen")
def shenzhen(source: Path, size: int) -> DatasetSpec:
    """ChinaSet_AllFiles (also published as Shenzhen-Hospital-CXR-Set) as unpacked: CXR_png/CHNCXR_0001_0.png (662
    images) and ClinicalReadings/CHNCXR_0001_0.txt; that folder or the one above. From the U.S. National Library of
    Medicine (data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets), free for research with attribution.
    Labels: the last digit of the name, 0 normal, 1 tuberculosis. Sex and age come from the readings, where they can be
    read. One image a patient, who carries "shenzhen" and the number. There are no official splits.
    """
    folder = _folder(source)
    return DatasetSpec(
        name="shenzhen",
        version="1.0.0",
        task="single_label",
        labels=LABELS,
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band"),
        candidates=functools.partial(_candidates, folder=folder),
        rows=_rows,
        encode=functools.partial(_encode, size=size),
        files=functools.partial(_files, folder=folder),
    )


def _folder(source: Path) -> str:
    folder = next((f for f in FOLDERS if (source / f / "CXR_png").is_dir()), None)
    if folder is None or not (source / folder / READINGS).is_dir():
        raise UserError(
            f"source lacks {'CXR_png' if folder is None else READINGS}",
            expected=f"the folders CXR_png and {READINGS} in the source or in {' or '.join(FOLDERS[1:])} below it",
        )
    return folder


def _files(source: Path, *, folder: str) -> Iterator[str]:
    for part in ("CXR_png", READINGS):
        yield from (str(PurePosixPath(folder, part, path.name)) for path in sorted((source / folder / part).iterdir()))


def _candidates(source: Path, *, folder: str) -> Iterator[Candidate]:
    for path in sorted((source / folder / "CXR_png").iterdir()):
        if not path.name.startswith("."):
            yield Candidate(str(PurePosixPath(folder, "CXR_png", path.name)))


def _rows(source: Path, candidate: Candidate) -> list[Row]:
    path = PurePosixPath(candidate.path)
    match = _NAME.fullmatch(path.name)
    if not match:
        raise Reject("not_a_shenzhen_name")
    label = int(match[2])
    return [
        Row(
            path=candidate.path,
            identity=f"shenzhen {path.stem}",
            patient=f"shenzhen {match[1]}",
            stratum=label,
            label=label,
            facts=_facts(source / path.parent.parent / READINGS / f"{path.stem}.txt"),
        )
    ]


def _facts(path: Path) -> dict[str, str | None]:
    """Sex and age band of a clinical reading; None for what it does not say."""
    match = _READING.match(read_reading(path))
    if not match:
        return {"sex": None, "age_band": None}
    unit = (match[3] or "y")[0].upper()
    return {"sex": sex("M" if match[1].lower() == "male" else "F"), "age_band": age_band(match[2] + unit)}


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_image(source / path, 1), (size, size), "pad_area", 0)
