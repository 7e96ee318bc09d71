"""MIMIC-CXR-JPG 2.1.0 as PhysioNet serves it, with a few studies."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_csv, write_image

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
# (subject, study, split, views of its images, labels that are not blank)
STUDIES = (
    (10000032, 50414267, "train", ("PA", "LATERAL"), {"No Finding": 1}),
    (10000032, 53189527, "train", ("AP",), {"Lung Opacity": 1, "Pneumonia": -1}),
    (10000764, 57375967, "train", ("AP", "LATERAL"), {"Consolidation": 1, "Pleural Effusion": -1}),
    (10000898, 50771383, "train", ("PA", "LL"), {"Atelectasis": -1, "Edema": 0}),
    (10000935, 50578979, "train", ("AP", ""), {"Lung Lesion": 1, "Pneumothorax": 0}),
    (10000980, 50985099, "train", ("PA",), {"Cardiomegaly": 1, "Edema": 1, "Pleural Effusion": 1}),
    (11000011, 51029426, "validate", ("PA",), {"Fracture": 1}),
    (11000183, 51967845, "validate", ("AP",), {"No Finding": 1}),
    (12000001, 56164612, "test", ("AP",), {"Edema": -1, "Support Devices": 1}),
    (12000002, 52341872, "test", ("PA", "LATERAL"), {"Pneumonia": 1}),
    (13000003, 58206436, "train", ("AP",), None),  # the labeller found nothing to read
)
# What the radiologist made of the test studies; the table calls Lung Opacity by another name and has no subjects.
RADIOLOGIST = ((56164612, {"Edema": 1, "Airspace Opacity": 1, "Support Devices": 1, "Pneumothorax": 0}),)


@MINIATURES.register("mimic_cxr")
def write(folder: Path, seed: int = 0) -> None:
    """files/p10/p10000032/s50414267/*.jpg, the gzipped tables mimic-cxr-2.0.0-{split,metadata,chexpert,negbio}.csv.gz,
    mimic-cxr-2.1.0-test-set-labeled.csv and IMAGE_FILENAMES.
    """
    split, metadata, names = [], [], []
    for subject, study, part, views, _ in STUDIES:
        for number, view in enumerate(views):
            dicom = dicom_id(study, number)
            name = f"files/p{subject // 1000000}/p{subject}/s{study}/{dicom}.jpg"
            image, _ = radiograph((seed, study, number), 80, 64)
            write_image(folder / name, image)
            names.append(name)
            split.append({"dicom_id": dicom, "study_id": study, "subject_id": subject, "split": part})
            metadata.append(_metadata(dicom, subject, study, view, *image.shape))
    write_csv(folder / "mimic-cxr-2.0.0-split.csv.gz", split)
    write_csv(folder / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    (folder / "IMAGE_FILENAMES").write_text("".join(f"{name}\n" for name in names))
    columns = ("subject_id", "study_id", *LABELS)
    for labeler in ("chexpert", "negbio"):
        rows = [
            {"subject_id": subject, "study_id": study, **_cells(labels if labeler == "chexpert" else _negbio(labels))}
            for subject, study, _, _, labels in STUDIES
            if labels is not None
        ]
        write_csv(folder / f"mimic-cxr-2.0.0-{labeler}.csv.gz", rows, columns)
    other = tuple("Airspace Opacity" if name == "Lung Opacity" else name for name in LABELS)
    labelled = [{"study_id": study, **_cells(labels)} for study, labels in RADIOLOGIST]
    write_csv(folder / "mimic-cxr-2.1.0-test-set-labeled.csv", labelled, ("study_id", *other))


def _cells(labels: dict[str, int]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in labels.items()}


def _negbio(labels: dict[str, int]) -> dict[str, int]:
    """The other labeller differs here and there: it takes every doubt for a yes."""
    return {name: abs(value) for name, value in labels.items()}


def dicom_id(*numbers: int) -> str:
    """Name of an image (study, number), as the owner made it: a hash in five parts."""
    text = hashlib.sha256(repr(numbers).encode()).hexdigest()[:40]
    return "-".join(text[k : k + 8] for k in range(0, 40, 8))


def _metadata(dicom: str, subject: int, study: int, view: str, rows: int, columns: int) -> dict[str, object]:
    return {
        "dicom_id": dicom,
        "subject_id": subject,
        "study_id": study,
        "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
        "ViewPosition": view,
        "Rows": rows,
        "Columns": columns,
        "StudyDate": 21800506,
        "StudyTime": 213014.531,
        "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
        "ViewCodeSequence_CodeMeaning": {"PA": "postero-anterior", "AP": "antero-posterior"}.get(view, "lateral"),
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }
