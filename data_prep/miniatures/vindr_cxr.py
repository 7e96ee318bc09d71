"""VinDr-CXR 1.0.0 as PhysioNet serves it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_csv, write_dicom

LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
DX = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
# (sex, age, photometric interpretation, what each of the three readers saw)
TRAIN = (
    ("M", "058Y", "MONOCHROME2", (("No finding",), ("No finding",), ("No finding",))),
    ("F", "041Y", "MONOCHROME1", (("Cardiomegaly", "Aortic enlargement"), ("Cardiomegaly",), ("No finding",))),
    ("", "", "MONOCHROME2", (("Pleural effusion", "Other diseases"), ("Pleural effusion",), ("Pneumonia",))),
    ("M", "000Y", "MONOCHROME2", (("Tuberculosis",), ("No finding",), ("No finding",))),
    ("O", "077Y", "MONOCHROME2", (("Nodule/Mass", "Lung tumor"), ("Nodule/Mass", "Lung tumor"), ("Lung tumor",))),
    ("F", "035Y", "MONOCHROME1", (("No finding",), ("No finding",), ("COPD",))),
)
TEST = (
    ("F", "066Y", "MONOCHROME2", ("Pneumothorax", "Other diseases")),
    ("M", "050Y", "MONOCHROME2", ("No finding",)),
)


def image_id(part: str, number: int) -> str:
    """Name of an image, as the owner made it: a hash."""
    return hashlib.md5(f"{part} {number}".encode()).hexdigest()


@MINIATURES.register("vindr_cxr")
def write(folder: Path, seed: int = 0) -> None:
    """train/IMAGE_ID.dicom, test/IMAGE_ID.dicom, annotations/image_labels_train.csv (a row for each reader of an image)
    and image_labels_test.csv (consensus; it writes "Other disease").
    """
    rows = []
    for number, (sex, age, photometric, readers) in enumerate(TRAIN):
        name = image_id("train", number)
        _write(folder / "train" / f"{name}.dicom", (seed, number), sex, age, photometric)
        for reader, seen in enumerate(readers):
            votes = {label: int(label in seen) for label in LABELS}
            rows.append({"image_id": name, "rad_id": f"R{8 + reader}"} | votes)
    write_csv(folder / "annotations" / "image_labels_train.csv", rows)
    rows = []
    for number, (sex, age, photometric, seen) in enumerate(TEST):
        name = image_id("test", number)
        _write(folder / "test" / f"{name}.dicom", (seed, 100 + number), sex, age, photometric)
        votes = {label.replace("Other diseases", "Other disease"): int(label in seen) for label in LABELS}
        rows.append({"image_id": name} | votes)
    write_csv(folder / "annotations" / "image_labels_test.csv", rows)


def _write(path: Path, seed: tuple[int, ...], sex: str, age: str, photometric: str) -> None:
    image, _ = radiograph(seed, 72, 60)
    stored = 16 * image.astype(np.uint16)
    fields = {"Manufacturer": "", "PixelSpacing": [0.14, 0.14], "WindowCenter": 2048, "WindowWidth": 4096}
    write_dicom(
        path,
        4095 - stored if photometric == "MONOCHROME1" else stored,
        DX,
        f"2.25.{int(path.stem, 16)}",
        **fields,
        Modality="DX",
        PhotometricInterpretation=photometric,
        BitsStored=12,
        HighBit=11,
        PatientSex=sex,
        PatientAge=age,
    )
