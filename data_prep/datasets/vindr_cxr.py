"""VinDr-CXR (Nguyen et al. 2022): postero-anterior chest X-rays of two hospitals in Hanoi, read by radiologists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
import functools
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep.facts import age_band, scanner, sex
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.dicom.display import read_display, read_display_headers
from data_prep.ingest.image import fit
from data_prep.observations import check_codes, rank, stratum
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

LOCAL = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion",
)  # fmt: skip
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
FINDINGS = {
    "28": LOCAL + GLOBAL,
    "22": LOCAL,
    "6": ("Pleural effusion", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding"),
}
ALIASES = {"Other disease": "Other diseases"}  # as the test table has it
TABLES = {"train": "image_labels_train.csv", "test": "image_labels_test.csv"}
POOLS = {"train": "train+val", "test": "test"}


@DATASETS.register("vindr_cxr")
def vindr_cxr(source: Path, size: int, findings: str = "28", readers: str = "majority") -> DatasetSpec:
    """The PhysioNet folder vindr-cxr/1.0.0: train/IMAGE_ID.dicom, test/IMAGE_ID.dicom and annotations/
    image_labels_train.csv and image_labels_test.csv (also beside train/). From physionet.org/content/vindr-cxr,
    PhysioNet Credentialed Health Data License 1.5.0: training and a signed agreement, no sharing.
    Labels: 22 local and 6 global findings, multi-label. Three radiologists read each training image, the test labels
    are the consensus of five. Splits: the official test; val is taken out of train. The tables name no patients, so
    that each image counts as one. Pixels are what a viewer shows (window of the file).
    Options: --findings=28|22|6 (22: the local ones; 6: the global ones with pleural effusion for COPD, as in the
    transfer benchmark), --readers=majority|any (how many of the readers make a finding).
    """
    if findings not in FINDINGS:
        raise UserError("vindr_cxr: findings", got=repr(findings), expected=f"one of {', '.join(FINDINGS)}")
    if readers not in ("majority", "any"):
        raise UserError("vindr_cxr: readers", got=repr(readers), expected="majority or any")
    names = FINDINGS[findings]
    tables = {part: _find(source, name) for part, name in TABLES.items()}
    for path in tables.values():
        columns = [ALIASES.get(name, name) for name in check_columns(source / path, ("image_id",))]
        if missing := [name for name in names if name not in columns]:
            raise UserError(f"{Path(path).name} lacks the column(s) {', '.join(missing)}")
    ranks = rank(_codes(source, tables["train"], names, readers).values(), names)
    return DatasetSpec(
        name="vindr_cxr",
        version="1.0.0",
        task="multi_label",
        labels=names,
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band", "scanner"),
        candidates=functools.partial(_candidates, tables=tables, names=names, readers=readers),
        rows=functools.partial(_rows, names=names, ranks=ranks),
        encode=functools.partial(_encode, size=size),
        single_file=True,
        tables=tuple(tables.values()),
        files=functools.partial(_files, tables=tables),
    )


def _find(source: Path, name: str) -> str:
    found = next((path for path in (f"annotations/{name}", name) if (source / path).is_file()), None)
    if found is None:
        raise UserError(f"source lacks annotations/{name}", expected="the folder vindr-cxr/1.0.0 of PhysioNet")
    return found


def _codes(source: Path, table: str, names: tuple[str, ...], readers: str) -> dict[str, str]:
    """{image: one character for each finding}: 1 or 0 by its readers' votes, x where a cell is no vote."""
    columns = [name for name in check_columns(source / table, ()) if ALIASES.get(name, name) in ("image_id", *names)]
    votes: dict[str, Counter[str]] = {}
    for row in read_rows(source / table, columns):
        counts = votes.setdefault(row.pop("image_id"), Counter())
        counts["readers"] += 1
        for name, cell in row.items():
            vote = cell.removesuffix(".0")
            counts[f"{ALIASES.get(name, name)} {vote if vote in ('1', '0', '') else 'x'}"] += 1
    return {image: "".join(_decide(counts, name, readers) for name in names) for image, counts in votes.items()}


def _decide(counts: Counter[str], name: str, readers: str) -> str:
    if counts[f"{name} x"]:
        return "x"
    needed = 1 if readers == "any" else counts["readers"] // 2 + 1
    return "1" if counts[f"{name} 1"] >= needed else "0"


def _images(source: Path, tables: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(part, image, path) in the order of the tables."""
    for part, table in tables.items():
        seen: set[str] = set()
        for row in read_rows(source / table, ("image_id",)):
            image = row["image_id"]
            if image not in seen:
                seen.add(image)
                yield part, image, f"{part}/{image}.dicom"


def _files(source: Path, *, tables: dict[str, str]) -> Iterator[str]:
    yield from tables.values()
    for _, _, path in _images(source, tables):
        yield path


def _candidates(source: Path, *, tables: dict[str, str], names: tuple[str, ...], readers: str) -> Iterator[Candidate]:
    codes = {part: _codes(source, table, names, readers) for part, table in tables.items()}
    for part, image, path in _images(source, tables):
        yield Candidate(path, {"image": image, "pool": POOLS[part], "codes": codes[part][image]})


def _rows(source: Path, candidate: Candidate, *, names: tuple[str, ...], ranks: tuple[int, ...]) -> list[Row]:
    entry = candidate.entry
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    check_codes(entry["codes"])
    headers = read_display_headers(source / candidate.path)
    if len(headers) > 1:
        raise Reject("several_frames")
    header = headers[0]
    labels = tuple(int(code) for code in entry["codes"])
    return [
        Row(
            path=candidate.path,
            identity=f"vindr {entry['image']}",
            patient="",
            stratum=stratum(labels, ranks),
            labels=labels,
            label_mask=(1,) * len(names),
            pool=entry["pool"],
            facts={
                "sex": sex(header.sex), "age_band": age_band(header.age), "scanner": scanner(header.manufacturer),
            },
        )
    ]  # fmt: skip


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_display(source / path, 1), (size, size), "pad_area", 0)
