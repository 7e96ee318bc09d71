"""NIH ChestX-ray14 (Wang et al. 2017): frontal chest X-rays with 14 findings, in the layout NIH publishes."""

from __future__ import annotations

from collections.abc import Iterator
import filecmp
import functools
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band, sex, view
from data_prep.ingest.csv_table import check_columns, read_lines, read_rows
from data_prep.ingest.files import walk
from data_prep.ingest.image import SUFFIXES, fit, read_image
from data_prep.observations import stratum
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
VIEWS = {
    "14": FINDINGS,
    "15": (*FINDINGS, NO_FINDING),  # the labels of the RadNet study's task "CX8"
    "8": FINDINGS[:8],  # those of ChestX-ray8, the paper's first release
    "finding": ("no finding", "finding"),
}
LISTS = {"train_val_list.txt": "train+val", "test_list.txt": "test"}
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
SEX = ("Patient Gender", "Patient Sex")  # releases differ


@DATASETS.register("chestxray14")
def chestxray14(source: Path, size: int, view: str = "14") -> DatasetSpec:
    """The NIH download: images/*.png (or images_001/images/*.png and so on), Data_Entry_2017*.csv, train_val_list.txt
    and test_list.txt. From nihcc.app.box.com/v/ChestXray-NIHCC, free to use, naming the NIH Clinical Center.
    Labels: 14 findings mined from reports, multi-label. Splits: the official test list is the test split; val is a
    patient-disjoint part of the train_val list. Patients carry "nih" and the Patient ID. Of several files of one
    name one is taken where all are equal byte for byte, else none (ambiguous_name).
    Options: --view=14 (the default), --view=15 (with No Finding as a label of its own, as the RadNet study's CX8 task
    has it), --view=8 (the eight findings of ChestX-ray8) or --view=finding (any finding / no finding).
    """
    if view not in VIEWS:
        raise UserError("chestxray14: view", got=repr(view), expected=f"one of {', '.join(VIEWS)}")
    table, sex_column = _table(source)
    _pools(source)  # refuses lists with common images
    labels, multi = VIEWS[view], view != "finding"
    return DatasetSpec(
        name="chestxray14",
        version="1.1.0",
        task="multi_label" if multi else "single_label",
        labels=labels,
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band", "view"),
        candidates=functools.partial(_candidates, table=table, sex_column=sex_column),
        rows=functools.partial(_rows, labels=labels if multi else ()),
        encode=functools.partial(_encode, size=size),
        single_file=True,
        tables=(table, *LISTS),
    )


def _table(source: Path) -> tuple[str, str]:
    """Name of the table and of its column of sexes."""
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
    columns = check_columns(source / found[0], COLUMNS)
    sex_column = next((name for name in SEX if name in columns), None)
    if sex_column is None:
        raise UserError(f"{found[0]} lacks the column {SEX[0]}", got=", ".join(columns))
    return found[0], sex_column


def _pools(source: Path) -> dict[str, str]:
    """{image: the splits it may go to}; a UserError for an image in both lists."""
    pools: dict[str, str] = {}
    for name, pool in LISTS.items():
        images = set(read_lines(source / name))
        if common := len(images & pools.keys()):
            raise UserError(
                "images stand in both official lists",
                got=f"{common} of them",
                expected=f"{' and '.join(LISTS)} as NIH publishes them",
            )
        pools |= dict.fromkeys(images, pool)
    return pools


def _candidates(source: Path, *, table: str, sex_column: str) -> Iterator[Candidate]:
    """The images of the table, each with the other files of its name, then those that the table lacks."""
    pools = _pools(source)
    paths: dict[str, list[str]] = {}
    for path in walk(source):
        if path.lower().endswith(SUFFIXES):
            paths.setdefault(Path(path).name, []).append(path)
    for entry in read_rows(source / table, (*COLUMNS, sex_column)):
        name = entry["Image Index"]
        entry |= {"sex": entry[sex_column], "pool": pools.get(name, "")}
        found = paths.pop(name, [name])
        real = [path for path in found if len(found) > 1 and (source / path).is_file()]
        for path in found:
            yield Candidate(path, entry | {"others": "\0".join(other for other in real if other != path)})
    for name in sorted(paths):
        for path in paths[name]:
            yield Candidate(path, {"Image Index": name})


def _rows(source: Path, candidate: Candidate, *, labels: tuple[str, ...]) -> list[Row]:
    """Rows with the findings `labels`, or with any finding / no finding where there are none."""
    entry = candidate.entry
    if "Patient ID" not in entry:
        raise Reject("not_in_table")
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    for other in filter(None, entry["others"].split("\0")):
        # A file that is not here, as in an object store, can't be compared.
        if not (source / other).is_file() or not filecmp.cmp(source / candidate.path, source / other, shallow=False):
            raise Reject("ambiguous_name")
    if not entry["pool"]:
        raise Reject("not_in_lists")
    names = [n.strip() for n in entry["Finding Labels"].split("|")]
    if not set(names) <= {*FINDINGS, NO_FINDING} or (NO_FINDING in names and len(names) > 1):
        raise Reject("unknown_finding", entry["Finding Labels"])
    any_finding = int(names != [NO_FINDING])
    values = tuple(int(name in names) for name in labels)
    order = [name for name in (*RARITY, NO_FINDING) if name in labels]
    ranks = tuple(order.index(name) for name in labels)
    return [
        Row(
            path=candidate.path,
            identity=f"nih {entry['Image Index']}",
            patient=f"nih {entry['Patient ID']}",
            stratum=stratum(values, ranks) if labels else any_finding,
            label=-1 if labels else any_finding,
            labels=values,
            label_mask=(1,) * len(labels),
            pool=entry["pool"],
            facts={
                "sex": sex(entry["sex"]), "age_band": age_band(entry["Patient Age"]),
                "view": view(entry["View Position"]),
            },
        )
    ]  # fmt: skip


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_image(source / path, 1), (size, size), "pad_area", 0)
