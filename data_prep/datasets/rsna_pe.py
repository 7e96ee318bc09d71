"""RSNA-STR Pulmonary Embolism Detection 2020 (Colak et al. 2021, RSPECT): CT angiograms labelled slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
from pathlib import Path

from jaxtyping import Int16
import numpy as np

from data_prep.datasets.radnet import HU_RANGE
from data_prep.ingest import dicom
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.dicom.rows import slice_row
from data_prep.ingest.image import fit
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

TABLE = "train.csv"
IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
EXAMS = ("negative", "positive", "indeterminate")
COLUMNS = (*IDS, "pe_present_on_image", "negative_exam_for_pe", "indeterminate")


@DATASETS.register("rsna_pe")
def rsna_pe(source: Path, size: int) -> DatasetSpec:
    """RSNA-STR pulmonary embolism: train.csv and train/STUDY/SERIES/IMAGE.dcm (7,279 exams, 1,790,594 slices), as
    unpacked from kaggle.com/c/rsna-str-pulmonary-embolism-detection; test.csv and test/ have no labels and are passed
    over. Licence: non-commercial use with citation (RSPECT, copyright RSNA 2020). The label of a slice is
    pe_present_on_image; the fact `exam` of its series is negative, positive or indeterminate (negative_exam_for_pe,
    indeterminate), for results by exam. Records are int16 Hounsfield units; the three windows that are stacked as
    channels (lung, embolism, mediastinum) are a model input: domain=ct_pe of the configs. An exam is a patient unless
    the files say that exams share one; splits are made by patient and balanced by exam.
    """
    check_columns(source / TABLE, COLUMNS)
    if not (source / "train").is_dir():
        raise UserError("source has no folder train", expected=f"{TABLE} and train/STUDY/SERIES/IMAGE.dcm")
    return DatasetSpec(
        name="rsna_pe",
        version="1.0.0",
        task="single_label",
        labels=("no embolism", "embolism"),
        stored=StoredPixels("CT", "HU", HU_RANGE, (size, size), 1, "pad_area", "int16"),
        facts=("exam", "sex", "age_band", "scanner"),
        candidates=_candidates,
        rows=_rows,
        encode=functools.partial(_encode, size=size),
        single_file=True,
        tables=(TABLE,),
    )


def _candidates(source: Path) -> Iterator[Candidate]:
    for row in read_rows(source / TABLE, COLUMNS):
        yield Candidate("/".join(("train", *(row[name] for name in IDS))) + ".dcm", row)


def _rows(source: Path, candidate: Candidate) -> list[Row]:
    entry = candidate.entry
    flags = [entry[name] for name in COLUMNS[len(IDS) :]]
    if not set(flags) <= {"0", "1"} or flags[1:] == ["1", "1"]:
        raise Reject("bad_label", ",".join(flags))
    present, negative, indeterminate = (flag == "1" for flag in flags)
    if present and (negative or indeterminate):
        raise Reject("bad_label", "a clot in an exam without one")
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    header, *others = dicom.read_headers(source / candidate.path)
    if others:
        raise Reject("several_frames")
    study, series, image = (f"rsna_pe {entry[name]}" for name in IDS)
    exam = EXAMS[0 if negative else 2 if indeterminate else 1]
    row = slice_row(
        header,
        candidate.path,
        1,
        identity=image,
        patient=f"rsna_pe {header.patient}" if header.patient else "",
        links=(study, series),
        series=series,
        stratum=EXAMS.index(exam),
        label=int(present),
    )
    return [dataclasses.replace(row, facts={**row.facts, "exam": exam})]


def _encode(source: Path, path: str, frame: int, *, size: int) -> Int16[np.ndarray, "h w 1"]:
    return fit(dicom.read_hu(source / path, HU_RANGE, frame)[..., None], (size, size), "pad_area", HU_RANGE[0])
