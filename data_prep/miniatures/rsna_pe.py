"""RSNA-STR pulmonary embolism as unpacked: train.csv, train/STUDY/SERIES/IMAGE.dcm, test.csv, test/."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Int16
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import write_csv, write_dicom
from data_prep.phantom import draw_slice

SIZE, SLICES = 48, 4
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
COLUMNS = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "pe_present_on_image", "negative_exam_for_pe",
    "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe", "chronic_pe",
    "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe", "indeterminate",
)  # fmt: skip


class Exam(NamedTuple):
    """Slices that show a clot, and what the table says of the exam."""

    clots: tuple[int, ...] = ()
    indeterminate: bool = False
    patient: int = 0  # 0 = its own


EXAMS = (
    Exam(), Exam((1, 2)), Exam((2,)), Exam(indeterminate=True), Exam(), Exam(), Exam((0, 1, 2, 3)),
    Exam(patient=1), Exam((3,), patient=1),
)  # fmt: skip


def uid(*parts: object) -> str:
    """Twelve hexadecimal digits, as the release writes all its UIDs."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def slice_hu(seed: int, exam: int, k: int) -> Int16[np.ndarray, "h w"]:
    """Hounsfield units of a slice, the k-th from the feet."""
    return draw_slice("thorax", 0.2 + 0.6 * k / SLICES, SIZE, (seed, exam), k)[0]


@MINIATURES.register("rsna_pe")
def write(folder: Path, seed: int = 0) -> None:
    """Nine exams of four slices, the last two of one patient, and a test exam without labels. The table's rows are in
    no order.
    """
    rows: list[dict[str, object]] = []
    for number, exam in enumerate(EXAMS):
        study, series = uid("study", number), uid("series", number)
        patient = uid("patient", exam.patient or 100 + number)
        for k in range(SLICES):
            image = uid("image", number, k)
            _write(folder / "train" / study / series / f"{image}.dcm", seed, number, k, (study, series, image), patient)
            rows.append(
                dict.fromkeys(COLUMNS, 0)
                | {
                    "StudyInstanceUID": study,
                    "SeriesInstanceUID": series,
                    "SOPInstanceUID": image,
                    "pe_present_on_image": int(k in exam.clots),
                    "negative_exam_for_pe": int(not exam.clots and not exam.indeterminate),
                    "rv_lv_ratio_lt_1": int(bool(exam.clots)),
                    "rightsided_pe": int(bool(exam.clots)),
                    "indeterminate": int(exam.indeterminate),
                }
            )
    write_csv(folder / "train.csv", sorted(rows, key=lambda row: str(row["SOPInstanceUID"])), COLUMNS)
    test = {"StudyInstanceUID": uid("test"), "SeriesInstanceUID": uid("t"), "SOPInstanceUID": uid("test", 0)}
    write_csv(folder / "test.csv", [test])
    ids = tuple(test.values())
    _write(folder / "test" / ids[0] / ids[1] / f"{ids[2]}.dcm", seed, 99, 0, (ids[0], ids[1], ids[2]), uid("patient"))


def _write(path: Path, seed: int, exam: int, k: int, ids: tuple[str, str, str], patient: str) -> None:
    study, series, image = ids
    write_dicom(
        path,
        slice_hu(seed, exam, k) + np.int16(1024),
        CT_IMAGE,
        image,
        Modality="CT",
        PatientID=patient,
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[-180, -180, -200 + 10 * k],
        PixelSpacing=[7.5, 7.5],
        SliceThickness="1.25",
        RescaleIntercept="-1024",
        RescaleSlope="1",
        WindowCenter="40",
        WindowWidth="350",
    )
