"""NIH ChestX-ray14 as downloaded: twelve archives unpacked side by side, the 2020 table, the two official lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_csv, write_image

# patient: (sex, age, list, findings of each image)
PATIENTS = {
    1: ("M", 57, "train_val", ("Cardiomegaly", "Cardiomegaly|Emphysema", "Cardiomegaly|Effusion")),
    2: ("M", 80, "train_val", ("No Finding",)),
    3: ("F", 74, "train_val", ("Hernia", "Hernia|Infiltration")),
    4: ("M", 82, "train_val", ("Mass|Nodule",)),
    5: ("F", 69, "train_val", ("No Finding", "No Finding", "Pneumonia")),
    6: ("F", 49, "train_val", ("No Finding",)),
    7: ("M", 33, "train_val", ("Edema|Consolidation",)),
    8: ("F", 45, "train_val", ("Pleural_Thickening", "Fibrosis")),
    9: ("M", 61, "test", ("Pneumothorax",)),
    10: ("F", 94, "test", ("Atelectasis|Effusion", "No Finding")),
}


@MINIATURES.register("chestxray14")
def write(folder: Path, seed: int = 0) -> None:
    """images_001/images/*.png and images_002/images/*.png, Data_Entry_2017_v2020.csv, train_val_list.txt and
    test_list.txt. Some images are RGBA, as in the release.
    """
    entries, lists = [], {"train_val": "", "test": ""}
    for patient, (sex, age, name, images) in PATIENTS.items():
        for number, findings in enumerate(images):
            file = f"{patient:08d}_{number:03d}.png"
            image, _ = radiograph((seed, patient, number))
            if file == "00000004_000.png":
                image = np.dstack([image, image, image, np.full_like(image, 255)])
            part = "images_001" if patient < 6 else "images_002"
            write_image(folder / part / "images" / file, image)
            lists[name] += f"{file}\n"
            entries.append(
                {
                    "Image Index": file,
                    "Finding Labels": findings,
                    "Follow-up #": number,
                    "Patient ID": patient,
                    "Patient Age": age,
                    "Patient Gender": sex,
                    "View Position": "AP" if number else "PA",
                    "OriginalImage[Width": image.shape[1],
                    "Height]": image.shape[0],
                    "OriginalImagePixelSpacing[x": 0.143,
                    "y]": 0.143,
                }
            )
    write_csv(folder / "Data_Entry_2017_v2020.csv", entries)
    for name, text in lists.items():
        (folder / f"{name}_list.txt").write_text(text)
