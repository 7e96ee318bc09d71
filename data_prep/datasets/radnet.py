"""Body regions of CT slices from a tree of DICOM files, as in the RadNet study (CTBR task)."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path
import re

from jaxtyping import Int16
import numpy as np

from data_prep.ingest import dicom
from data_prep.ingest.dicom.rows import slice_row
from data_prep.ingest.files import walk
from data_prep.ingest.image import fit
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

HU_RANGE = (-1024.0, 3071.0)  # what 12 stored bits with the usual intercept can hold

# The study's six classes in the study's order: the first class with a keyword anywhere in BodyPartExamined wins.
# "darm" (bowel), "felsenbein" (petrous bone) and "brustbein" (sternum) are there because "arm" and "bein" (leg) of the
# extremities are substrings of them.
BODY_REGIONS: dict[str, tuple[str, ...]] = {
    "head/neck": (
        "head", "skull", "brain", "neck", "cranium", "cct", "kopf", "hals", "schaedel", "schadel", "hirn", "felsenbein",
    ),
    "thorax": ("thorax", "tho", "thx", "chest", "torso", "brustbein"),
    "abdomen": ("abdomen", "abd", "bauch", "darm"),
    "extremities": (
        "arm", "hand", "wrist", "elbow", "shoulder", "leg", "knee", "thigh", "calf", "extremit", "foot", "ankle",
        "ellenbogen", "schulter", "bein", "knie", "schenkel", "wade", "fuss",
    ),
    "pelvis/hip": ("hip", "huefte", "hufte", "pelvis", "becken"),
    "spine": ("spine", "spinal", "ws", "wirbel"),
}  # fmt: skip
_FOLD = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})  # casefold has made "ss" of "ß" already


def body_region(text: str) -> int:
    """Class index of a BodyPartExamined value, -1 where no keyword is in it (whole body, unknown, empty).

    Case does not matter. Being a substring match in a fixed order, it inherits the study's oddities: "ORTHO" holds
    "tho" and is thorax, "THORACIC SPINE" is thorax, "HALSWIRBELSAEULE" (cervical spine) and "HUEFTKOPF" (femoral
    head) are head/neck; and of names that are no body part "NEWS" holds "ws" and is spine, "COLLEGE" holds "leg" and
    "ALARM" holds "arm" and are extremities. The rule is kept as published, so that labels are those of the study.
    """
    folded = re.sub(r"[\s_\-/^]+", " ", text.casefold().translate(_FOLD))
    for index, keywords in enumerate(BODY_REGIONS.values()):
        if any(keyword in folded for keyword in keywords):
            return index
    return -1


@DATASETS.register("radnet")
def radnet(source: Path, size: int, burned_in: str = "reject") -> DatasetSpec:
    """A tree of CT DICOM files: any nesting, any file name, any number of patients and series; multi-frame and enhanced
    files too. One slice is one record, int16 Hounsfield units; its label is the body region that BodyPartExamined names
    (six classes; no hit: unlabelled). Option: --burned_in=keep takes files with BurnedInAnnotation = YES, whose pixels
    can show names; by default they are rejected.
    """
    del source  # the rules are the same for every source
    if burned_in not in ("reject", "keep"):
        raise UserError("radnet: burned_in", got=repr(burned_in), expected="reject or keep")
    keep = burned_in == "keep"
    return DatasetSpec(
        name="radnet",
        version="1.1.0",
        task="single_label",
        labels=tuple(BODY_REGIONS),
        stored=StoredPixels("CT", "HU", HU_RANGE, (size, size), 1, "pad_area", "int16"),
        facts=("sex", "age_band", "scanner"),
        candidates=_candidates,
        rows=functools.partial(_rows, burned_in=keep),
        encode=functools.partial(_encode, size=size, burned_in=keep),
        single_file=True,
    )


def _candidates(source: Path) -> Iterator[Candidate]:
    return (Candidate(path) for path in walk(source))


def _rows(source: Path, candidate: Candidate, *, burned_in: bool) -> list[Row]:
    headers = dicom.read_headers(source / candidate.path, burned_in=burned_in)
    label = body_region(headers[0].body_part)
    return [slice_row(header, candidate.path, len(headers), stratum=label, label=label) for header in headers]


def _encode(source: Path, path: str, frame: int, *, size: int, burned_in: bool) -> Int16[np.ndarray, "h w 1"]:
    slice_ = dicom.read_hu(source / path, HU_RANGE, frame, burned_in=burned_in)
    return fit(slice_[..., None], (size, size), "pad_area", HU_RANGE[0])
