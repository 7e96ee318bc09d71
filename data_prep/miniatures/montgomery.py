"""The Montgomery set: images, masks of the left and the right lung, readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_bytes, write_image

# name: sex, age, shape (portrait or landscape, as the two plate formats), reading
IMAGES = {
    "MCUCXR_0001_0": ("F ", "027Y", (56, 48), "normal"),
    "MCUCXR_0002_0": ("F ", "040Y", (48, 56), "normal"),
    "MCUCXR_0003_0": ("M ", "014Y", (56, 48), "normal"),
    "MCUCXR_0006_0": ("M ", "092Y", (48, 56), "normal"),
    "MCUCXR_0104_1": ("F ", "055Y", (56, 48), "upper lobe infiltrates"),
    "MCUCXR_0108_1": ("M ", "018Y", (48, 56), "cavitary lesion of the left apex"),
    "MCUCXR_0113_1": ("O ", "041Y", (56, 48), "TB"),
}


@MINIATURES.register("montgomery")
def write(folder: Path, seed: int = 0) -> None:
    """MontgomerySet/CXR_png, ManualMask/leftMask, ManualMask/rightMask, ClinicalReadings. MCUCXR_0002_0.png keeps the
    12 bits of the scanner.
    """
    root = folder / "MontgomerySet"
    for number, (name, (sex, age, shape, reading)) in enumerate(IMAGES.items()):
        image, masks = radiograph((seed, number), *shape)
        stored = np.rint(image * (4095 / 255)).astype(np.uint16) if name == "MCUCXR_0002_0" else image
        write_image(root / "CXR_png" / f"{name}.png", stored)
        for side in ("left", "right"):
            write_image(root / "ManualMask" / f"{side}Mask" / f"{name}.png", masks[f"{side} lung"] * 255)
        text = f"Patient's Sex: {sex}\nPatient's Age: {age}\n{reading}\n"
        write_bytes(root / "ClinicalReadings" / f"{name}.txt", text.encode())
