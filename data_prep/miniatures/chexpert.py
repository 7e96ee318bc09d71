"""CheXpert-v1.0-small as unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_csv, write_image

COLUMNS = (
    "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly",
    "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax",
    "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
# (patient, study, view, sex, age, projection, labels that are not blank)
TRAIN = (
    (1, 1, "view1_frontal", "Female", 68, "AP", {"No Finding": 1, "Pneumothorax": 0, "Support Devices": 1}),
    (2, 2, "view1_frontal", "Female", 87, "AP", {"Cardiomegaly": -1, "Lung Opacity": 1, "Edema": -1, "Fracture": 1}),
    (2, 1, "view1_frontal", "Female", 83, "AP", {"Lung Opacity": 1, "Consolidation": -1, "Fracture": 1}),
    (2, 1, "view2_lateral", "Female", 83, "", {"Lung Opacity": 1, "Consolidation": -1, "Fracture": 1}),
    (3, 1, "view1_frontal", "Male", 41, "AP", {"Edema": 1}),
    (4, 1, "view1_frontal", "Female", 20, "PA", {"No Finding": 1}),
    (4, 1, "view2_lateral", "Female", 20, "", {"No Finding": 1}),
    (5, 1, "view1_frontal", "Male", 33, "PA", {"Atelectasis": -1, "Pleural Effusion": -1, "Pneumothorax": 0}),
    (6, 1, "view1_frontal", "Unknown", 0, "AP", {"Pleural Effusion": 1, "Pleural Other": 1, "Lung Lesion": 1}),
    (7, 1, "view1_frontal", "Male", 69, "LL", {"Enlarged Cardiomediastinum": 1, "Cardiomegaly": 1}),
    (8, 1, "view1_frontal", "Male", 90, "AP", {"Consolidation": 1, "Pneumonia": 1, "Lung Opacity": 1}),
    (9, 1, "view1_frontal", "Female", 56, "PA", {"Atelectasis": 1, "Support Devices": 1}),
)
VALID = (
    (64541, 1, "view1_frontal", "Male", 73, "AP", {"Cardiomegaly": 1, "Enlarged Cardiomediastinum": 1}),
    (64542, 1, "view1_frontal", "Male", 70, "PA", {"Support Devices": 1}),
    (64542, 1, "view2_lateral", "Male", 70, "", {"Support Devices": 1}),
    (64543, 1, "view1_frontal", "Female", 85, "AP", {"No Finding": 1}),
)


@MINIATURES.register("chexpert")
def write(folder: Path, seed: int = 0) -> None:
    """CheXpert-v1.0-small/train.csv, valid.csv, train/patient00001/study1/view1_frontal.jpg, valid/...; radiologists
    have filled all cells of valid.csv.
    """
    base = folder / "CheXpert-v1.0-small"
    for part, images in (("train", TRAIN), ("valid", VALID)):
        rows = []
        for number, (patient, study, view, sex, age, projection, labels) in enumerate(images):
            name = f"{part}/patient{patient:05d}/study{study}/{view}.jpg"
            drawn, _ = radiograph((seed, patient, number), 64, 78)
            write_image(base / name, np.fliplr(drawn) if "lateral" in view else drawn)
            blank = "0.0" if part == "valid" else ""
            row = {column: blank for column in COLUMNS} | {f: f"{value:.1f}" for f, value in labels.items()}
            side = "Lateral" if "lateral" in view else "Frontal"
            row |= {"Path": f"CheXpert-v1.0-small/{name}", "Sex": sex, "Age": str(age), "Frontal/Lateral": side}
            rows.append(row | {"AP/PA": projection})
        write_csv(base / f"{part}.csv", rows, COLUMNS)
