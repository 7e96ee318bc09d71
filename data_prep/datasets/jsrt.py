"""JSRT chest X-rays (Shiraishi et al. 2000) with the SCR masks (van Ginneken et al. 2006)."""

from __future__ import annotations

from collections.abc import Iterator
import csv
import filecmp
import functools
from pathlib import Path, PurePosixPath
import re

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band, sex
from data_prep.ingest.files import walk
from data_prep.ingest.image import fit, fit_mask
from data_prep.ingest.masks import read_foreground
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

SIDE, MAX_VALUE = 2048, 4095
MASK_SIDE = 1024
STRUCTURES = {
    "lungs": ("left lung", "right lung"),
    "heart": ("heart",),
    "clavicles": ("left clavicle", "right clavicle"),
}
FOLDS = ("fold1", "fold2")
CLINICAL = {"CLNDAT_EN.txt": (3, 4), "CNNDAT_EN.TXT": (1, 2)}  # columns of age and sex; the user's guide is wrong
_IMAGE = re.compile(r"(JPC[LN]N)(\d{3})\.IMG")


@DATASETS.register("jsrt")
def jsrt(source: Path, size: int, structure: str = "lungs", test_fold: int = 2) -> DatasetSpec:
    """JSRT with SCR masks, 247 frontal X-rays: JPCLN001.IMG (nodule) and JPCNN001.IMG (none) as raw 2048 x 2048 values
    of 12 bits in big-endian words, low = bright; CLNDAT_EN.txt and CNNDAT_EN.TXT (age, sex) where they are there; and
    of SCR fold1/masks/heart/JPCLN001.gif and so on (heart, left lung, right lung, left clavicle, right clavicle; fold2
    likewise, 1024 x 1024), in any folders below the source. From db.jsrt.or.jp/eng.php and
    www.isi.uu.nl/Research/Databases/SCR, for research; no redistribution. Labels: no nodule, nodule. SCR's folds are
    the splits. An image is a patient. Options: --structure=lungs|heart|clavicles (they overlap, so one is the mask;
    left and right are joined), --test_fold=2|1 (val is a part of the other).
    """
    if structure not in STRUCTURES:
        raise UserError("jsrt: structure", got=repr(structure), expected=f"one of {', '.join(STRUCTURES)}")
    if test_fold not in (1, 2):
        raise UserError("jsrt: test_fold", got=test_fold, expected="1 or 2")
    names = STRUCTURES[structure]
    images = masks = 0
    for path in map(PurePosixPath, walk(source)):
        images += bool(_IMAGE.fullmatch(path.name))
        masks += path.parent.name == names[0] and path.suffix == ".gif"
    if not images or not masks:
        raise UserError(
            f"source holds no {'SCR masks' if images else 'JSRT images'}",
            expected=f"JPCLN001.IMG and so on, and the masks fold1/masks/{names[0]}/JPCLN001.gif and so on",
        )
    return DatasetSpec(
        name="jsrt",
        version="1.0.0",
        task="single_label",
        labels=("no nodule", "nodule"),
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band"),
        candidates=functools.partial(_candidates, names=names),
        rows=functools.partial(_rows, names=names, test_fold=f"fold{test_fold}"),
        encode=functools.partial(_encode, size=size),
        segmentation=({"lungs": "lung", "heart": "heart", "clavicles": "clavicle"}[structure],),
        encode_mask=functools.partial(_encode_mask, names=names, size=size),
    )


def _candidates(source: Path, *, names: tuple[str, ...]) -> Iterator[Candidate]:
    masks: dict[str, list[str]] = {}
    clinical: dict[str, dict[str, str]] = {}
    images = []
    for text in walk(source):
        path = PurePosixPath(text)
        if _IMAGE.fullmatch(path.name):
            images.append(text)
        elif path.suffix == ".gif" and path.parent.name == names[0] and set(path.parts) & set(FOLDS):
            masks.setdefault(path.stem, []).append(text)
        elif path.name in CLINICAL:
            clinical |= _clinical(source / path, *CLINICAL[path.name])
    for text in images:
        name = PurePosixPath(text).stem
        yield Candidate(text, clinical.get(name, {}) | {"masks": "\0".join(masks.get(name, []))})


def _clinical(path: Path, age: int, sex_: int) -> dict[str, dict[str, str]]:
    if not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path.name} can't be read", got="a dangling link, a pipe or the like")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return {
            row[0].strip().removesuffix(".IMG"): {"age": row[age], "sex": row[sex_]}
            for row in csv.reader(file, delimiter="\t")
            if len(row) > max(age, sex_)
        }


def _rows(source: Path, candidate: Candidate, *, names: tuple[str, ...], test_fold: str) -> list[Row]:
    match = _IMAGE.fullmatch(PurePosixPath(candidate.path).name)
    assert match
    if not (source / candidate.path).is_file():
        raise Reject("missing_file", "a dangling link, a pipe or the like")
    mask, *others = (PurePosixPath(path) for path in candidate.entry["masks"].split("\0"))
    if not mask.name:
        raise Reject("missing_mask")
    fold = _fold(mask)
    if any(_fold(other) != fold or not _are_equal(source, mask, other, names) for other in others):
        raise Reject("ambiguous_name", "several masks")
    nodule = int(match[1] == "JPCLN")
    entry = candidate.entry
    return [
        Row(
            path=candidate.path,
            identity=f"jsrt {match[1]}{match[2]}",
            patient=f"jsrt {match[1]}{match[2]}",
            stratum=nodule,
            label=nodule,
            mask=str(mask),
            size=(SIDE, SIDE),
            spacing=(0.175, 0.175),
            pool="test" if fold == test_fold else "train+val",
            facts={"sex": sex(entry.get("sex")), "age_band": age_band(entry.get("age"))},
        )
    ]


def _fold(mask: PurePosixPath) -> str:
    return next(part for part in mask.parts if part in FOLDS)


def _files(mask: PurePosixPath, names: tuple[str, ...]) -> list[PurePosixPath]:
    """The files of the structures, of which `mask` is the first."""
    return [mask.parent.parent / name / mask.name for name in names]


def _are_equal(source: Path, mask: PurePosixPath, other: PurePosixPath, names: tuple[str, ...]) -> bool:
    pairs = [(source / a, source / b) for a, b in zip(_files(mask, names), _files(other, names))]
    return all(a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False) for a, b in pairs)


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    try:
        data = (source / path).read_bytes()
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    if len(data) != SIDE * SIDE * 2:
        raise Reject("size_mismatch", f"{len(data)} bytes")
    values = np.frombuffer(data, ">u2").reshape(SIDE, SIDE, 1)
    if values.max() > MAX_VALUE:
        raise Reject("bad_values", f"{values.max()} in 12 bits")
    shown = np.rint((MAX_VALUE - values.astype(np.float32)) * (255 / MAX_VALUE)).astype(np.uint8)
    return fit(shown, (size, size), "pad_area", 0)


def _encode_mask(
    source: Path, path: str, mask: str, frame: int, *, names: tuple[str, ...], size: int
) -> UInt8[np.ndarray, "h w"]:
    files = _files(PurePosixPath(mask), names)
    if not all((source / file).is_file() for file in files):
        raise Reject("missing_mask")
    both = read_foreground([source / file for file in files], (MASK_SIDE, MASK_SIDE))
    return fit_mask(both, (size, size), "pad_area")
