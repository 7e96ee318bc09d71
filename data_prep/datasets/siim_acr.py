"""SIIM-ACR Pneumothorax Segmentation 2019 (Filice et al. 2020): pneumothorax drawn on NIH chest X-rays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
from pathlib import Path, PurePosixPath

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.dicom import display
from data_prep.ingest.dicom.rows import slice_row
from data_prep.ingest.files import Version, walk
from data_prep.ingest.image import fit, fit_mask
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.preprocessing import StoredPixels

TABLES = ("stage_2_train.csv", "train-rle.csv")  # the first that is there; the second's header is "ImageId, Encoded..."
COLUMNS = ("ImageId", "EncodedPixels")
TEST_FOLDER = "dicom-images-test"


@DATASETS.register("siim_acr")
def siim_acr(source: Path, size: int) -> DatasetSpec:
    """SIIM-ACR pneumothorax: dicom-images-train/STUDY/SERIES/IMAGE.dcm, dicom-images-test likewise, and
    stage_2_train.csv or else train-rle.csv (ImageId, EncodedPixels: runs down the columns, each counted from the end of
    the one before; -1 = no pneumothorax; several rows of an image are joined). From
    kaggle.com/c/siim-acr-pneumothorax-segmentation (or its mirrors), for non-commercial use under the competition's
    rules. 12,047 images with both folders. Labels: pneumothorax yes or no; mask: pneumothorax = 1. Where the table
    labels dicom-images-test (stage 2), that is the test split and val a part of dicom-images-train; else splits are
    made of all. The images are of NIH ChestX-ray14 under new ids, so that neither patients nor a shared salt match:
    audit it by images against a pretraining set of NIH, and mind that one person may stand in several splits.
    """
    table = next((name for name in TABLES if (source / name).is_file()), TABLES[1])
    check_columns(source / table, COLUMNS)
    in_test = {
        PurePosixPath(path).stem
        for path in walk(source)
        if path.endswith(".dcm") and TEST_FOLDER in PurePosixPath(path).parts
    }
    official = any(row["ImageId"] in in_test for row in read_rows(source / table, COLUMNS))
    return DatasetSpec(
        name="siim_acr",
        version="1.0.0",
        task="single_label",
        labels=("no pneumothorax", "pneumothorax"),
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band"),
        candidates=functools.partial(_candidates, table=table),
        rows=functools.partial(_rows, table=table, official=official),
        encode=functools.partial(_encode, size=size),
        tables=(table,),
        segmentation=("pneumothorax",),
        encode_mask=functools.partial(_encode_mask, size=size),
    )


def _candidates(source: Path, *, table: str) -> Iterator[Candidate]:
    labels: dict[str, str] = {}
    for row in read_rows(source / table, COLUMNS):
        positive = row["EncodedPixels"] != "-1"
        known = labels.setdefault(row["ImageId"], str(int(positive)))
        if known != str(int(positive)):
            labels[row["ImageId"]] = "both"
    found = set()
    for path in walk(source):
        if path.endswith(".dcm"):
            image = PurePosixPath(path).stem
            found.add(image)
            yield Candidate(path, {"label": labels.get(image, "")})
    for image in labels:
        if image not in found:
            yield Candidate(f"{image}.dcm", {"label": "missing"})


def _rows(source: Path, candidate: Candidate, *, table: str, official: bool) -> list[Row]:
    label = candidate.entry["label"]
    if label not in ("0", "1"):
        raise Reject({"": "not_in_table", "both": "bad_mask", "missing": "missing_file"}[label])
    header, *others = display.read_display_headers(source / candidate.path)
    if others:
        raise Reject("several_frames")
    image = PurePosixPath(candidate.path).stem
    in_test = TEST_FOLDER in PurePosixPath(candidate.path).parts
    return [
        slice_row(
            header,
            candidate.path,
            1,
            identity=f"siim {image}",
            patient=f"siim {header.patient}" if header.patient else "",
            series="",
            stratum=int(label),
            label=int(label),
            mask=table,
            pool=("test" if in_test else "train+val") if official else "",
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(display.read_display(source / path, 1, frame), (size, size), "pad_area", 0)


def _encode_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    (header,) = display.read_display_headers(source / path)
    values = np.zeros(header.size, np.uint8)
    for runs in _runs(Version.of(source / mask))[PurePosixPath(path).stem]:
        values |= decode_runs(runs, header.size)
    return fit_mask(values, (size, size), "pad_area")


@functools.lru_cache(maxsize=1)
def _runs(table: Version) -> dict[str, list[str]]:
    runs: dict[str, list[str]] = {}
    for row in read_rows(table.path, COLUMNS):
        image = runs.setdefault(row["ImageId"], [])
        if row["EncodedPixels"] != "-1":
            image.append(row["EncodedPixels"])
    return runs


def decode_runs(text: str, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The 0/1 mask of "start length start length ...": down the columns, each start counted from the end of the run
    before it, the first from 0.

    Raises:
      Reject: bad_mask for text that is no such list or runs beyond the image.
    """
    words = text.split()
    if not words or len(words) % 2 or not all(word.isdecimal() for word in words):
        raise Reject("bad_mask", "no pairs of whole numbers")
    numbers: Sequence[int] = [int(word) for word in words]
    ends = np.cumsum(numbers)  # 64 bits: of the gap, of the run, of the gap, ...
    flat = np.zeros(size[0] * size[1], np.uint8)
    if ends[-1] > flat.size:
        raise Reject("bad_mask", "runs beyond the image")
    for start, end in zip(ends[0::2], ends[1::2]):
        flat[start:end] = 1
    return np.ascontiguousarray(flat.reshape(size[::-1]).T)
