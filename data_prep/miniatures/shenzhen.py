"""The Shenzhen chest X-ray set as unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_bytes, write_image

# name: clinical reading, typed as the real ones are
READINGS = {
    "CHNCXR_0001_0": "male 45yrs\nnormal",
    "CHNCXR_0002_0": "female 63yrs\nnormal\n",
    "CHNCXR_0003_0": "femal 32yrs\nnormal",
    "CHNCXR_0115_0": "male 16month\nnormal",
    "CHNCXR_0202_0": "female 64days\nnormal",
    "CHNCXR_0203_0": "Male, 91yrs\r\nnormal",
    "CHNCXR_0326_0": "",
    "CHNCXR_0327_1": "male 37yrs\nbilateral PTB",
    "CHNCXR_0328_1": "female 24 yrs\nPTB in the right upper field",
    "CHNCXR_0329_1": "male  58yrs\nSTB, right pleural effusion",
    "CHNCXR_0330_1": "female 25yrs,\nbilateral secondary PTB",
    "CHNCXR_0662_1": "male 28yrs\nsecondary PTB in the left",
}


@MINIATURES.register("shenzhen")
def write(folder: Path, seed: int = 0) -> None:
    """ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png and ClinicalReadings/CHNCXR_0001_0.txt; most images are RGB."""
    base = folder / "ChinaSet_AllFiles"
    for number, (name, reading) in enumerate(READINGS.items()):
        image, _ = radiograph((seed, number), 64, 66)
        write_image(base / "CXR_png" / f"{name}.png", image if number % 4 else np.dstack([image] * 3))
        write_bytes(base / "ClinicalReadings" / f"{name}.txt", reading.encode())
