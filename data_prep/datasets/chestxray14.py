"""NIH ChestX-ray14 (Wang et al. 2017): frontal chest X-rays with 14 findings, in the layout NIH publishes."""

from __future__ import annotations

from collections.abc import Iterator
import csv
import functools
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band, sex
from data_prep.ingest.files import walk
from data_prep.ingest.image import SUFFIXES, fit, read_image
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NO_FINDING = "No Finding"
# From rare to frequent in the full set (Wang et al., table 1 of the 14-finding release); a patient is stratified by the
# rarest finding it ever had, so that Hernia (0.2 %) comes into each split.
RARITY = (
    "Hernia", "Pneumonia", "Fibrosis", "Edema", "Emphysema", "Cardiomegaly", "Pleural_Thickening", "Consolidation",
    "Pneumothorax", "Mass", "Nodule", "Atelectasis", "Effusion", "Infiltration",
)  # fmt: skip
VIEWS = ("14", "finding")
LISTS = {"train_val_list.txt": "train+val", "test_list.txt": "test"}
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender")


@DATASETS.register("chestxray14")
def chestxray14(source: Path, size: int, view: str = "14") -> DatasetSpec:
    """The NIH download: images/*.png (or images_001/images/*.png and so on), Data_Entry_2017*.csv, train_val_list.txt
    and test_list.txt. The official test list is the test split; val is a patient-disjoint part of the train_val list.
    Options: --view=14 (14 findings, multi-label; the default) or --view=finding (any finding / no finding).
    """
    if view not in VIEWS:
        raise UserError("chestxray14: view", got=repr(view), expected="14 or finding")
    table = _table(source)
    multi = view == "14"
    return DatasetSpec(
        name="chestxray14",
        version="1.0.0",
        task="multi_label" if multi else "single_label",
        labels=FINDINGS if multi else ("no finding", "finding"),
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band"),
        candidates=functools.partial(_candidates, table=table),
        rows=functools.partial(_rows, multi=multi),
        encode=functools.partial(_encode, size=size),
        tables=(table, *LISTS),
    )


def _table(source: Path) -> str:
    found = sorted(p.name for p in source.glob("Data_Entry_2017*.csv"))
    lacking = [name for name in LISTS if not (source / name).is_file()]
    if len(found) != 1 or lacking:
        raise UserError(
            "source is not in the NIH ChestX-ray14 layout",
            got=f"{len(found)} file(s) Data_Entry_2017*.csv, without {', '.join(lacking) or 'none of the lists'}"
            if lacking
            else f"{len(found)} files Data_Entry_2017*.csv",
            expected="images/, one Data_Entry_2017*.csv, train_val_list.txt and test_list.txt",
        )
    with (source / found[0]).open(newline="", encoding="utf-8-sig") as file:
        columns = next(csv.reader(file), [])
    missing = [c for c in COLUMNS if c not in columns]
    if missing:
        raise UserError(f"{found[0]} lacks the column(s) {', '.join(missing)}", got=", ".join(columns) or "no header")
    return found[0]


def _candidates(source: Path, *, table: str) -> Iterator[Candidate]:
    pools = {
        line.strip(): pool
        for name, pool in LISTS.items()
        for line in (source / name).read_text().splitlines()
        if line.strip()
    }
    paths = {Path(path).name: path for path in walk(source) if path.lower().endswith(SUFFIXES)}
    with (source / table).open(newline="", encoding="utf-8-sig") as file:
        for entry in csv.DictReader(file):
            name = entry["Image Index"]
            yield Candidate(paths.pop(name, name), {c: entry[c] or "" for c in COLUMNS} | {"pool": pools.get(name, "")})
    for name, path in sorted(paths.items()):
        yield Candidate(path, {"Image Index": name})


def _rows(source: Path, candidate: Candidate, *, multi: bool) -> list[Row]:
    entry = candidate.entry
    if "Patient ID" not in entry:
        raise Reject("not_in_table")
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    if not entry["pool"]:
        raise Reject("not_in_lists")
    names = [n.strip() for n in entry["Finding Labels"].split("|")]
    if not set(names) <= {*FINDINGS, NO_FINDING} or (NO_FINDING in names and len(names) > 1):
        raise Reject("unknown_finding", entry["Finding Labels"])
    any_finding = int(names != [NO_FINDING])
    rarest = min((RARITY.index(n) for n in names if n != NO_FINDING), default=len(RARITY))
    return [
        Row(
            path=candidate.path,
            identity=entry["Image Index"],
            patient=f"nih {entry['Patient ID']}",
            stratum=rarest if multi else any_finding,
            label=-1 if multi else any_finding,
            labels=tuple(int(f in names) for f in FINDINGS) if multi else (),
            label_mask=(1,) * len(FINDINGS) if multi else (),
            pool=entry["pool"],
            facts={"sex": sex(entry["Patient Gender"]), "age_band": age_band(entry["Patient Age"])},
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_image(source / path, 1), (size, size), "pad_area", 0)
