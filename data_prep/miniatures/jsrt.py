"""JSRT images, raw as the society gives them, with the masks of SCR."""

from __future__ import annotations

from pathlib import Path

import cv2
from jaxtyping import UInt8, UInt16
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import ANATOMY, radiograph, write_bytes, write_gif

# name: age, sex as the tables write them; SCR puts odd numbers in fold 1
IMAGES = {
    "JPCLN001": ("53", "male"), "JPCLN002": ("78", "female"), "JPCLN003": ("?", "Female"), "JPCNN001": ("92", "male"),
    "JPCNN002": ("14", "female"),
}  # fmt: skip


def drawn(seed: int, name: str) -> tuple[UInt16[np.ndarray, "h w"], dict[str, UInt8[np.ndarray, "h w"]]]:
    """Stored values of an image of 2048 x 2048 (low = bright), and its masks of 1024 x 1024."""
    number = list(IMAGES).index(name)
    image, masks = radiograph((seed, number), 64, 64)
    values = cv2.resize(image.astype(np.uint16) * 16, (2048, 2048), interpolation=cv2.INTER_NEAREST)
    large = {part: cv2.resize(mask, (1024, 1024), interpolation=cv2.INTER_NEAREST) for part, mask in masks.items()}
    return 4095 - values, large


@MINIATURES.register("jsrt")
def write(folder: Path, seed: int = 0) -> None:
    """All247images/JPCLN001.IMG and so on, scratch/fold1/masks/heart/JPCLN001.gif and so on, and the two clinical
    tables, which have no header.
    """
    tables = {"CLNDAT_EN.txt": "", "CNNDAT_EN.TXT": ""}
    for name, (age, sex) in IMAGES.items():
        values, masks = drawn(seed, name)
        write_bytes(folder / "All247images" / f"{name}.IMG", values.astype(">u2").tobytes())
        fold = f"fold{1 if int(name[-1]) % 2 else 2}"
        for part in ANATOMY:
            write_gif(folder / "scratch" / fold / "masks" / part / f"{name}.gif", masks[part])
        if name.startswith("JPCLN"):
            row = (f"{name}.IMG", "5", "15", age, sex, "1634", "692", "malignant", "l.upper lobe", "lung cancer")
            tables["CLNDAT_EN.txt"] += "\t".join(row) + "\r\n"
        else:
            tables["CNNDAT_EN.TXT"] += "\t".join((f"{name}.IMG", age, sex, "non-nodule")) + "\r\n"
    for name, text in tables.items():
        write_bytes(folder / "Clinical_Information" / name, text.encode())
