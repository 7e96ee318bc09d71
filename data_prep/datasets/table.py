"""Your own images without code: a table that lists them."""

from __future__ import annotations

from collections.abc import Iterator
import csv
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from jaxtyping import Num, UInt8
import numpy as np

from data_prep.datasets.radnet import HU_RANGE
from data_prep.ingest import dicom, image, nifti
from data_prep.ingest.dicom import display
from data_prep.ingest.dicom.rows import slice_row
from data_prep.ingest.files import walk
from data_prep.label_column import LabelRule, learn
from data_prep.spec import DATASETS, SPLIT_NAMES, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError, nearest
from radnet_jax.preprocessing import MODALITIES, UNKNOWN_MASK, StoredPixels

COLUMNS = ("image", "mask", "patient", "labels", "split")
_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


class _Options(NamedTuple):
    """What the pixel functions need; pickled into worker processes."""

    modality: str
    channels: int
    size: int
    value_range: tuple[float, float] | None
    mask_classes: int
    burned_in: bool
    dicom_ids: bool
    resize: str


@DATASETS.register("table")
def table(
    source: Path,
    size: int,
    modality: str = "",
    channels: int = 1,
    value_range: str = "",
    mask_labels: str = "foreground",
    burned_in: str = "reject",
    dicom_ids: str = "join",
    resize: str = "pad_area",
) -> DatasetSpec:
    """--source=table.csv (UTF-8, a header line; .tsv with tabs) with the columns image, mask, patient, labels, split;
    all but image may be missing or empty, others are passed over. Paths are relative to the table.
      image    DICOM file or folder, NIfTI volume (.nii, .nii.gz: each axial slice a record), PNG, JPEG, TIFF or npy.
      mask     NIfTI on the grid of a NIfTI image, else a PNG, TIFF or npy of the image's size.
      patient  patients never part; matches PatientID of DICOM files. DICOM files that share a PatientID, study or
               series are of one patient whatever this cell says (--dicom_ids=ignore: where it says something, only it
               counts; for files whose ids are made up). Without it other files are patients of their own.
      labels   one class a row: cat; or findings: edema|mass (none = no finding); or with values: edema=1|mass=0.
      split    train, val or test; rows without may go to any split, splits without rows are taken out of train.
    Options: --modality=CT|XR|MR|US|fundus|photo (must be given; only CT is stored in HU), --channels=1|3,
    --value_range=low,high (values that become 0 and 255, for images of more than 8 bits), --mask_labels=liver,tumour
    (names of the mask values 1, 2, ...; with one name every value above 0 counts), --burned_in=keep,
    --resize=stretch_area (does not keep the aspect ratio).
    """
    options = _check(modality, channels, value_range, mask_labels, burned_in, dicom_ids, resize, size)
    columns = _columns(source)
    rule = learn((line, row["labels"]) for line, row in _lines(source))
    splits = _splits(source)
    hu = modality == "CT"
    range_ = HU_RANGE if hu else (0.0, 255.0)
    return DatasetSpec(
        name="table",
        version="1.0.0",
        task=rule.task,
        labels=rule.names,
        stored=StoredPixels(
            modality, "HU" if hu else "none", range_, (size, size), channels, resize, "int16" if hu else "uint8"
        ),
        facts=("sex", "age_band", "scanner"),
        candidates=functools.partial(_candidates, table=source),
        rows=functools.partial(_rows, options=options, rule=rule, splits=splits),
        encode=functools.partial(_encode, options=options),
        single_file=True,
        tables=(source.name,),
        folder=source.parent,
        files=functools.partial(_files, table=source),
        segmentation=tuple(mask_labels.split(",")) if "mask" in columns else (),
        encode_mask=functools.partial(_encode_mask, options=options) if "mask" in columns else None,
    )


def _check(
    modality: str,
    channels: int,
    value_range: str,
    mask_labels: str,
    burned_in: str,
    dicom_ids: str,
    resize: str,
    size: int,
) -> _Options:
    if modality not in MODALITIES:
        raise UserError("table: modality", got=repr(modality), expected=f"--modality=one of {', '.join(MODALITIES)}")
    if channels not in (1, 3) or (modality == "CT" and channels != 1):
        raise UserError("table: channels", got=channels, expected="1" if modality == "CT" else "1 or 3")
    if burned_in not in ("reject", "keep"):
        raise UserError("table: burned_in", got=repr(burned_in), expected="reject or keep")
    if dicom_ids not in ("join", "ignore"):
        raise UserError("table: dicom_ids", got=repr(dicom_ids), expected="join or ignore")
    if resize not in ("pad_area", "stretch_area"):
        raise UserError("table: resize", got=repr(resize), expected="pad_area or stretch_area")
    names = mask_labels.split(",")
    if not all(name.strip() for name in names) or len(set(names)) != len(names) or len(names) >= UNKNOWN_MASK:
        raise UserError("table: mask_labels", got=repr(mask_labels), expected="different names such as liver,tumour")
    bounds = None
    if value_range:
        try:
            low, high = (float(part) for part in value_range.split(","))
        except ValueError as error:
            raise UserError("table: value_range", got=repr(value_range), expected="low,high") from error
        if modality == "CT" or not low < high:
            raise UserError(
                "table: value_range", got=repr(value_range), expected="low < high, and another modality than CT"
            )
        bounds = (low, high)
    return _Options(modality, channels, size, bounds, len(names), burned_in == "keep", dicom_ids == "join", resize)


def _reader(table: Path, file: TextIO) -> csv.DictReader:
    reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",", restkey="")
    reader.fieldnames = [(name or "").strip().lower() for name in reader.fieldnames or []]
    return reader


def _columns(table: Path) -> set[str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            names = list(_reader(table, file).fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {table.name} can't be read", got=type(error).__name__, expected="UTF-8 CSV") from error
    if "image" not in names:
        for mark, word in ((";", "semicolons"), ("\t", "tabs")):
            if len(names) == 1 and mark in names[0]:
                raise UserError(
                    f"the separator of table {table.name} is {mark!r}",
                    got=f"one column with {word} in its name",
                    fix="save it with commas between the cells, or with tabs and a name that ends in .tsv",
                )
        near = nearest("image", names)
        raise UserError(f"table {table.name} lacks the column image{near}", expected=f"columns {', '.join(COLUMNS)}")
    doubled = [name for name in COLUMNS if names.count(name) > 1]
    misspelt = [c for c in ("label", "masks", "patients", "splits") if c in names]
    if doubled or misspelt:
        wrong = (doubled or misspelt)[0]
        raise UserError(
            f"table {table.name} has the column {wrong}{' twice' if doubled else nearest(wrong, COLUMNS)}",
            expected=f"columns {', '.join(COLUMNS)}",
        )
    return set(names) & set(COLUMNS)


def _lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, cells by column) of each row; the columns of COLUMNS are always there."""
    rows = 0
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = _reader(table, file)
            for row in reader:
                if any("\0" in cell for cell in row.values() if isinstance(cell, str)):
                    raise UserError(f"line {reader.line_num} of {table.name} has a NUL byte", expected="UTF-8 CSV")
                if row.get(""):
                    raise UserError(f"line {reader.line_num} of {table.name} has more cells than the header")
                yield reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}
                rows += 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {table.name} can't be read", got=type(error).__name__, expected="UTF-8 CSV") from error
    if not rows:
        raise UserError(f"table {table.name} has no rows")


def _splits(table: Path) -> tuple[str, ...]:
    """Splits that the table names; a UserError for a word that is none."""
    found = set()
    for line, row in _lines(table):
        word = row["split"].lower()
        if word and word not in _SPLIT_WORDS:
            raise UserError(
                f"line {line} of {table.name} has a split that is none", expected="train, val, test or an empty cell"
            )
        found.add(_SPLIT_WORDS.get(word, ""))
    return tuple(name for name in SPLIT_NAMES if name in found)


def _files(source: Path, *, table: Path) -> Iterator[str]:
    yield table.name
    for _, row in _lines(table):
        yield from _below(source, row["image"])
        if row["mask"]:
            yield row["mask"]


def _below(source: Path, path: str) -> Iterator[str]:
    """The path itself, or the files of the folder that it is."""
    if path and (source / path).is_dir():
        yield from (str(Path(path, name)) for name in walk(source / path))
    else:
        yield path


def _candidates(source: Path, *, table: Path) -> Iterator[Candidate]:
    for _, row in _lines(table):
        is_folder = bool(row["image"]) and (source / row["image"]).is_dir()
        for path in _below(source, row["image"]):
            yield Candidate(_plain(source, path), row | {"folder": "yes" if is_folder else ""})


def _plain(source: Path, path: str) -> str:
    """The path relative to the source in its one spelling, since an image's identity is its path."""
    if not path:
        return path
    plain = os.path.relpath(source / path, source)
    if ".." in Path(path).parts and os.path.realpath(source / path) != os.path.realpath(source / plain):
        return path  # the folder before the ".." is a link: what it leads out of is another folder
    return plain


def _rows(
    source: Path, candidate: Candidate, *, options: _Options, rule: LabelRule, splits: tuple[str, ...]
) -> list[Row]:
    path, entry = candidate.path, candidate.entry
    if not path:
        raise Reject("no_image")
    for name in (path, entry["mask"]):
        if name and not (source / name).is_file():
            raise Reject("missing_file" if name == path else "missing_mask")
    stratum, label, labels, label_mask = rule.read(entry["labels"])
    split = _SPLIT_WORDS.get(entry["split"].lower(), "")
    # Splits that no row names are taken out of train.
    missing = [name for name in SPLIT_NAMES if name not in splits]
    fields: dict[str, Any] = {
        "stratum": stratum,
        "label": label,
        "labels": labels,
        "label_mask": label_mask,
        "pool": "+".join([split, *missing]) if split == "train" else split,
        "mask": entry["mask"],
    }
    if entry["patient"]:
        fields["patient"] = f"id {entry['patient']}"
    if nifti.is_nifti(path):
        return _volume_rows(source, path, fields, options)
    if path.lower().endswith(image.SUFFIXES):
        if options.modality == "CT" and not path.lower().endswith((".npy", ".tif", ".tiff")):
            raise Reject("no_hu", "8-bit format")
        if nifti.is_nifti(entry["mask"]):
            raise Reject("mask_mismatch")
        return [Row(**{"path": path, "identity": f"file {path}", "patient": ""} | fields)]
    read = dicom.read_headers if options.modality == "CT" else display.read_display_headers
    headers = read(source / path, burned_in=options.burned_in)
    if entry["mask"] and (len(headers) > 1 or entry["folder"] or nifti.is_nifti(entry["mask"])):
        raise Reject("mask_mismatch", "a mask for one image of one frame only")
    if entry["patient"] and not options.dicom_ids:
        fields["links"] = ()
    return [slice_row(header, path, len(headers), **fields) for header in headers]


def _volume_rows(source: Path, path: str, fields: dict[str, Any], options: _Options) -> list[Row]:
    header = nifti.read_header(source / path)
    if options.modality != "CT" and options.value_range is None:
        raise Reject("missing_window", "a volume without --value_range")
    if fields["mask"] and not nifti.is_nifti(fields["mask"]):
        raise Reject("mask_mismatch")
    volume: dict[str, Any] = {"path": path, "patient": "", "series": f"file {path}", "plane": "axial"}
    volume |= {"size": header.size, "spacing": header.pixel_spacing}
    return [
        Row(**volume | fields, identity=f"file {path} slice {k}", frame=k, position=k * header.spacing)
        for k in range(header.slices)
    ]


def _encode(source: Path, path: str, frame: int, *, options: _Options) -> Num[np.ndarray, "h w c"]:
    return image.fit(
        _pixels(source / path, frame, options),
        (options.size, options.size),
        options.resize,
        HU_RANGE[0] if options.modality == "CT" else 0,
    )


def _pixels(path: Path, frame: int, options: _Options) -> Num[np.ndarray, "h w c"]:
    is_image = path.name.lower().endswith(image.SUFFIXES)
    if options.modality == "CT":
        if nifti.is_nifti(path):
            return nifti.read_hu(path, frame, HU_RANGE)[..., None]
        if is_image:
            return image.read_hu(path, HU_RANGE)[..., None]
        return dicom.read_hu(path, HU_RANGE, frame, burned_in=options.burned_in)[..., None]
    if nifti.is_nifti(path):
        assert options.value_range is not None
        low, high = options.value_range
        shown = ((nifti.read_slice(path, frame) - low) / (high - low)).clip(0.0, 1.0)
        return np.repeat(np.rint(shown * 255).astype(np.uint8)[..., None], options.channels, axis=2)
    if is_image:
        return image.read_image(path, options.channels, options.value_range)
    return display.read_display(
        path, options.channels, frame, value_range=options.value_range, burned_in=options.burned_in
    )


def _encode_mask(source: Path, path: str, mask: str, frame: int, *, options: _Options) -> UInt8[np.ndarray, "h w"]:
    if nifti.is_nifti(mask):
        values = nifti.read_mask(source / mask, frame, source / path)
    else:
        values = image.read_mask(source / mask)
        if values.shape != _pixels(source / path, frame, options).shape[:2]:
            raise Reject("mask_mismatch", "another size than its image")
    if options.mask_classes == 1:
        values = (values > 0).astype(np.uint8)
    elif ((values > options.mask_classes) & (values != UNKNOWN_MASK)).any():
        raise Reject("mask_value")
    return image.fit_mask(values, (options.size, options.size), options.resize)
