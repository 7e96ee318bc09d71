"""BraTS 2020 (Menze et al. 2015; Bakas et al. 2017, 2018): gliomas in MR of four sequences."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
import re
from typing import Any

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band
from data_prep.ingest import nifti
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.files import Version, walk
from data_prep.ingest.image import fit, fit_mask
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

SEQUENCES = ("flair", "t1", "t1ce", "t2")
SLICES = ("all", "tumour")
GRADES = ("HGG", "LGG")
WHITE_PERCENTILE = 99.5
# Labels of the files: 1 necrotic and non-enhancing core, 2 oedema, 4 enhancing tumour (there is no 3).
LABELS = np.array([0, 1, 2, 255, 3], np.uint8)
MISNAMED = {"BraTS20_Training_355": "W39_1998.09.19_Segm.nii"}  # in every copy of the release
_CASE = re.compile(r"(BraTS20_(?:Training|Validation)_\d{3})_([a-z0-9]+)(\.nii(?:\.gz)?)")
_TABLES = {
    "name_mapping.csv": ("BraTS_2020_subject_ID", "Grade"),
    "survival_info.csv": ("Brats20ID", "Age"),
}


@DATASETS.register("brats")
def brats(source: Path, size: int, sequences: str = "t1,t1ce,flair", slices: str = "all") -> DatasetSpec:
    """BraTS 2020 training data, 369 cases of 155 slices: BraTS20_Training_001/BraTS20_Training_001_flair.nii (and _t1,
    _t1ce, _t2, _seg; also .nii.gz) below the source, as in MICCAI_BraTS2020_TrainingData, with name_mapping.csv (grade)
    and survival_info.csv (age) where they are there. From med.upenn.edu/cbica/brats2020/data.html, after registration
    and under its terms of use (research; cite the papers). Masks: NCR/NET = 1, oedema = 2, enhancing = 3 (4 in the
    files); case 355, whose mask has another name in the release, is found. Cases without a mask are rejected.
    MR values have no unit: of each volume 0 (outside the brain) becomes 0 and the 99.5th percentile of the rest 255. A
    case is a patient; splits are made by patient and balanced by grade. Options: --sequences=t1,t1ce,flair (three,
    one for each channel, as in the RadNet study; or one), --slices=tumour (slices that show tumour only; default all).
    """
    names = tuple(sequences.split(","))
    if not set(names) <= set(SEQUENCES) or len(names) not in (1, 3) or len(set(names)) != len(names):
        raise UserError(
            "brats: sequences", got=repr(sequences), expected=f"one or three of {','.join(SEQUENCES)}, such as t1ce"
        )
    if slices not in SLICES:
        raise UserError("brats: slices", got=repr(slices), expected="all or tumour")
    tables = _tables(source)
    return DatasetSpec(
        name="brats",
        version="1.0.0",
        task="none",
        labels=(),
        stored=StoredPixels("MR", "none", (0.0, 255.0), (size, size), len(names), "pad_area", "uint8"),
        facts=("grade", "age_band"),
        candidates=functools.partial(_candidates, first=names[0], tables=tables),
        rows=functools.partial(_rows, sequences=names, tumour_only=slices == "tumour"),
        encode=functools.partial(_encode, sequences=names, size=size),
        tables=tables,
        segmentation=("NCR/NET", "oedema", "enhancing"),
        scaling=f"0 to 0, percentile {WHITE_PERCENTILE} of the values above 0 of the volume to 255; {','.join(names)}",
        encode_mask=functools.partial(_encode_mask, size=size),
    )


def _tables(source: Path) -> tuple[str, ...]:
    paths = [PurePosixPath(path) for path in walk(source)]
    if not any(_CASE.fullmatch(path.name) for path in paths):
        raise UserError(
            "source is not in the layout of BraTS 2020",
            expected="folders BraTS20_Training_001 with BraTS20_Training_001_flair.nii and so on",
        )
    found = [path for path in paths if path.name in _TABLES]
    for path in found:
        check_columns(source / path, _TABLES[path.name])
    return tuple(map(str, found))


def _candidates(source: Path, *, first: str, tables: tuple[str, ...]) -> Iterator[Candidate]:
    """One for each case: the file of its first sequence, or, where that is missing, the first that is there."""
    entries: dict[str, dict[str, str]] = {}
    for table in tables:
        case, value = _TABLES[PurePosixPath(table).name]
        for row in read_rows(source / table, (case, value)):
            entries.setdefault(row[case], {})[value] = row[value]
    cases: dict[str, dict[str, str]] = {}
    for path in walk(source):
        if match := _CASE.fullmatch(PurePosixPath(path).name):
            cases.setdefault(str(PurePosixPath(path).with_name(match[1])), {})[match[2]] = path
    for files in cases.values():
        path = files.get(first) or next(iter(files.values()))
        yield Candidate(path, entries.get(_case(path)[1], {}))


def _case(path: str) -> re.Match[str]:
    match = _CASE.fullmatch(PurePosixPath(path).name)
    assert match
    return match


def _rows(source: Path, candidate: Candidate, *, sequences: tuple[str, ...], tumour_only: bool) -> list[Row]:
    case = _case(candidate.path)[1]
    files = [_file(source, candidate.path, name) for name in sequences]
    mask = _mask(source, candidate.path)
    header = nifti.read_header(source / files[0])
    for other in files[1:]:
        nifti.check_same_grid(source / other, source / files[0], reason="sequence_mismatch")
    nifti.check_same_grid(source / mask, source / files[0])
    grade = candidate.entry.get("Grade", "")
    age = re.match(r"\d+", candidate.entry.get("Age", ""))
    fields: dict[str, Any] = {
        "path": files[0],
        "patient": f"brats {case}",
        "series": f"brats {case}",
        "plane": "axial",
        "mask": mask,
        "size": header.size,
        "spacing": header.pixel_spacing,
        "stratum": GRADES.index(grade) if grade in GRADES else -1,
        "facts": {"grade": grade if grade in GRADES else None, "age_band": age_band(age[0]) if age else None},
    }
    asked = [True] * header.slices
    if tumour_only:
        labels = nifti.axial(nifti.open_volume(source / mask).stored, nifti.read_layout(source / mask))
        asked = [bool(plane.any()) for plane in labels]
    return [
        Row(
            **fields,
            identity=f"brats {case} slice {k}",
            frame=k,
            instance=k,
            position=k * header.spacing,
            asked=asked[k],
        )
        for k in range(header.slices)
    ]


def _file(source: Path, path: str, sequence: str) -> str:
    match = _case(path)
    file = str(PurePosixPath(path).with_name(f"{match[1]}_{sequence}{match[3]}"))
    if not (source / file).is_file():
        raise Reject("missing_sequence", sequence)
    return file


def _mask(source: Path, path: str) -> str:
    match = _case(path)
    names = [f"{match[1]}_seg{match[3]}"]
    if match[1] in MISNAMED:
        names += [MISNAMED[match[1]], f"{MISNAMED[match[1]]}.gz"]
    for name in names:
        file = PurePosixPath(path).with_name(name)
        if (source / file).is_file():
            return str(file)
    raise Reject("missing_mask")


@functools.lru_cache(maxsize=8)  # asked for with each slice
def _white(version: Version) -> float:
    """The value of a volume that becomes 255."""
    volume = nifti.open_volume(version.path)
    values = volume.stored * volume.slope + volume.intercept
    brain = values[values > 0]
    if not np.isfinite(values).all():
        raise Reject("not_finite")
    if not brain.size:
        raise Reject("empty_volume")
    return float(np.percentile(brain, WHITE_PERCENTILE))


def _encode(
    source: Path, path: str, frame: int, *, sequences: tuple[str, ...], size: int
) -> UInt8[np.ndarray, "h w c"]:
    channels = []
    for name in sequences:
        file = source / _file(source, path, name)
        channels.append((nifti.read_slice(file, frame) / _white(Version.of(file))).clip(0.0, 1.0))
    return fit(np.rint(np.stack(channels, axis=-1) * 255).astype(np.uint8), (size, size), "pad_area", 0)


def _encode_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    values = nifti.read_mask(source / mask, frame, source / path)
    if values.max() >= len(LABELS) or (values == 3).any():
        raise Reject("mask_value")
    return fit_mask(LABELS[values], (size, size), "pad_area")
