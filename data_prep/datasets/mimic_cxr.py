"""MIMIC-CXR-JPG 2.x (Johnson et al. 2019): chest X-rays of Beth Israel Deaconess with the labels of their reports."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep import observations
from data_prep.facts import view
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.image import fit
from data_prep.ingest.reduced import read_reduced
from data_prep.observations import ALIASES, Policy, check_policy, is_wanted, pack, rank
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

SPLIT_TABLE = "mimic-cxr-2.0.0-split.csv"
METADATA = "mimic-cxr-2.0.0-metadata.csv"
LABELS = {"chexpert": "mimic-cxr-2.0.0-chexpert.csv", "negbio": "mimic-cxr-2.0.0-negbio.csv"}
RADIOLOGIST = "mimic-cxr-2.1.0-test-set-labeled.csv"
SPLITS = {"train": "train", "validate": "val", "test": "test"}


@DATASETS.register("mimic_cxr")
def mimic_cxr(
    source: Path,
    size: int,
    findings: str = "14",
    views: str = "frontal",
    uncertain: str = "ignore",
    blank: str = "negative",
    labeler: str = "chexpert",
    test_labels: str = "labeler",
) -> DatasetSpec:
    """The PhysioNet folder mimic-cxr-jpg/2.0.0 or 2.1.0: files/p10/p10000032/s50414267/DICOM_ID.jpg (a part will do),
    mimic-cxr-2.0.0-split.csv.gz, mimic-cxr-2.0.0-metadata.csv.gz, mimic-cxr-2.0.0-chexpert.csv.gz or -negbio.csv.gz
    (all also unpacked, without .gz), and for --test_labels=radiologist mimic-cxr-2.1.0-test-set-labeled.csv. From
    physionet.org/content/mimic-cxr-jpg, PhysioNet Credentialed Health Data License 1.5.0: training and a signed
    agreement, no sharing.
    Labels: 14 observations of the study's report, multi-label, the same for all images of the study. Splits: the
    official ones. Patients carry "mimic" and the subject_id.
    Options: --findings=14|5 (5: CheXpert's competition), --views=frontal|all|PA|AP, --labeler=chexpert|negbio,
    --uncertain=ignore|zeros|ones|best (-1 in the tables: left out by label_mask, negative, positive, or what was best
    for each of the five findings in the CheXpert paper, others left out), --blank=negative|ignore (no mention in the
    report), --test_labels=labeler|radiologist (radiologist: the test split has only the studies that a radiologist
    labelled).
    """
    policy = check_policy("mimic_cxr", findings, views, uncertain, blank)
    for name, value, valid in (
        ("labeler", labeler, tuple(LABELS)),
        ("test_labels", test_labels, ("labeler", "radiologist")),
    ):
        if value not in valid:
            raise UserError(f"mimic_cxr: {name}", got=repr(value), expected=f"one of {', '.join(valid)}")
    asked = (SPLIT_TABLE, METADATA, LABELS[labeler], *((RADIOLOGIST,) if test_labels == "radiologist" else ()))
    tables = tuple(_table(source, name) for name in asked)
    check_columns(source / tables[0], ("dicom_id", "study_id", "subject_id", "split"))
    check_columns(source / tables[1], ("dicom_id", "ViewPosition"))
    for table in tables[2:]:
        columns = [ALIASES.get(name, name) for name in check_columns(source / table, ("study_id",))]
        if missing := [name for name in policy.findings if name not in columns]:
            raise UserError(f"{table} lacks the column(s) {', '.join(missing)}")
    ranks = rank(_labels(source, tables[2], policy).values(), policy.findings)
    return DatasetSpec(
        name="mimic_cxr",
        version="1.0.0",
        task="multi_label",
        labels=policy.findings,
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("view",),
        candidates=functools.partial(_candidates, tables=tables, policy=policy),
        rows=functools.partial(_rows, policy=policy, ranks=ranks, views=views),
        encode=functools.partial(_encode, size=size),
        single_file=True,
        tables=tables,
        files=functools.partial(_files, tables=tables),
    )


def _table(source: Path, name: str) -> str:
    found = next((n for n in (f"{name}.gz", name) if (source / n).is_file()), None)
    if found is None:
        raise UserError(
            f"source lacks {name}{'' if name == RADIOLOGIST else '.gz'}", expected="the MIMIC-CXR-JPG folder"
        )
    return found


def _labels(source: Path, table: str, policy: Policy) -> dict[str, str]:
    """{study: codes of its labels}."""
    names = check_columns(source / table, ())
    wanted = [name for name in names if ALIASES.get(name, name) in ("study_id", *policy.findings)]
    return {
        row["study_id"]: pack({ALIASES.get(name, name): cell for name, cell in row.items()}, policy.findings)
        for row in read_rows(source / table, wanted)
    }


def _images(source: Path, table: str) -> Iterator[tuple[str, dict[str, str]]]:
    for row in read_rows(source / table, ("dicom_id", "study_id", "subject_id", "split")):
        subject = row["subject_id"]
        yield f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg", row


def _files(source: Path, *, tables: tuple[str, ...]) -> Iterator[str]:
    yield from tables
    for path, _ in _images(source, tables[0]):
        yield path


def _candidates(source: Path, *, tables: tuple[str, ...], policy: Policy) -> Iterator[Candidate]:
    split_table, metadata, label_table, *radiologist = tables
    views = {r["dicom_id"]: r["ViewPosition"] for r in read_rows(source / metadata, ("dicom_id", "ViewPosition"))}
    labels = _labels(source, label_table, policy)
    of_test = _labels(source, radiologist[0], policy) if radiologist else labels
    for path, row in _images(source, split_table):
        codes = (of_test if row["split"] == "test" else labels).get(row["study_id"], "")
        yield Candidate(path, row | {"view": views.get(row["dicom_id"], ""), "codes": codes})


def _rows(source: Path, candidate: Candidate, *, policy: Policy, ranks: tuple[int, ...], views: str) -> list[Row]:
    entry = candidate.entry
    projection = view(entry["view"])
    if not is_wanted(projection, views):
        return []
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    if entry["split"] not in SPLITS:
        raise Reject("unknown_split")
    if not entry["codes"]:
        raise Reject("not_labelled")
    return [
        observations.row(
            candidate,
            policy,
            ranks,
            identity=f"mimic {entry['dicom_id']}",
            patient=f"mimic {entry['subject_id']}",
            pool=SPLITS[entry["split"]],
            facts={"view": projection},
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_reduced(source / path, 1, size), (size, size), "pad_area", 0)
