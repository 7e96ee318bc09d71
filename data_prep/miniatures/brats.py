"""BraTS 2020 training data, with the misnamed mask of case 355 and a case of the validation data."""

from __future__ import annotations

from pathlib import Path

import cv2
from jaxtyping import Int16, UInt8
import nibabel
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import write_csv

SLICES, ROWS, COLUMNS = 6, 44, 40
GRADES = {1: "HGG", 2: "HGG", 3: "LGG", 4: "LGG", 5: "HGG", 355: "HGG"}
AGES = {1: "60.463013698630134", 2: "52.26301369863014", 355: "92.0"}
CASES = tuple(f"BraTS20_Training_{number:03d}" for number in GRADES)
SEQUENCES = ("flair", "t1", "t1ce", "t2")
# Of brain, necrotic core (1), oedema (2) and enhancing tumour (4) in each sequence; the scale differs by scanner.
SHADES = {
    "flair": (200, 220, 420, 330), "t1": (300, 180, 240, 290), "t1ce": (310, 170, 250, 560), "t2": (240, 450, 430, 380),
}  # fmt: skip


def picture(seed: int, case: str) -> tuple[dict[str, Int16[np.ndarray, "k h w"]], UInt8[np.ndarray, "k h w"]]:
    """The four sequences and the mask (0, 1, 2, 4) from feet to head, the face above, the patient's right on the left;
    the tumour is on the patient's left.
    """
    rng = np.random.default_rng((seed, int(case[-3:])))
    labels = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    brain = np.zeros_like(labels)
    for k in range(1, SLICES - 1):  # the first and the last slice are empty
        _ellipse(brain[k], (COLUMNS / 2, ROWS / 2), (15, 18), 1)
        if k in (2, 3):
            centre = (COLUMNS / 2 + 7, ROWS / 2 - 5)
            for label, half in ((2, (6, 7)), (4, (4, 5)), (1, (2, 2))):
                _ellipse(labels[k], centre, half, label)
    scale = rng.uniform(0.5, 3)
    images = {}
    for name, (plain, core, oedema, enhancing) in SHADES.items():
        shade = np.choose(np.minimum(labels, 3), [plain, core, oedema, enhancing]) * scale
        noise = rng.normal(0, 0.03 * plain * scale, labels.shape)
        images[name] = np.rint((shade + noise) * brain).clip(0, 32767).astype(np.int16)
    return images, labels


def _ellipse(image: np.ndarray, centre: tuple[float, float], half: tuple[float, float], value: int) -> None:
    cv2.ellipse(image, (centre, (2 * half[0], 2 * half[1]), 0.0), value, -1)


@MINIATURES.register("brats")
def write(folder: Path, seed: int = 0) -> None:
    """MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_flair.nii and so on, name_mapping.csv and
    survival_info.csv; case 003 is gzipped, and a case of the validation data has no mask.
    """
    root = folder / "MICCAI_BraTS2020_TrainingData"
    for case in CASES:
        images, labels = picture(seed, case)
        suffix = ".nii.gz" if case.endswith("003") else ".nii"
        for name, image in images.items():
            _write(root / case / f"{case}_{name}{suffix}", image)
        mask = "W39_1998.09.19_Segm" if case.endswith("355") else f"{case}_seg"
        _write(root / case / f"{mask}{suffix}", labels)
    validation = "BraTS20_Validation_001"
    for name, image in picture(seed, validation)[0].items():
        _write(folder / "MICCAI_BraTS2020_ValidationData" / validation / f"{validation}_{name}.nii", image)
    ids = {number: f"BraTS20_Training_{number:03d}" for number in GRADES}
    write_csv(
        root / "name_mapping.csv",
        [
            {
                "Grade": grade,
                "BraTS_2017_subject_ID": f"Brats17_{number}_1",
                "BraTS_2018_subject_ID": f"Brats18_{number}_1",
                "TCGA_TCIA_subject_ID": "NA",
                "BraTS_2019_subject_ID": f"BraTS19_{number}_1",
                "BraTS_2020_subject_ID": ids[number],
            }
            for number, grade in GRADES.items()
        ],
    )
    write_csv(
        root / "survival_info.csv",
        [
            {"Brats20ID": ids[number], "Age": age, "Survival_days": 100 + number, "Extent_of_Resection": "GTR"}
            for number, age in AGES.items()
        ],
    )


def _write(path: Path, slices: np.ndarray) -> None:
    """Writes slices that lie as in `picture` with the affine of the release: columns to the left, rows to the back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = ROWS - 1
    nibabel.save(nibabel.Nifti1Image(slices.transpose(2, 1, 0), affine), path)
