"""The PNG re-release of LiTS (dataset lits, too), as on Kaggle."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.lits import CASES, picture
from data_prep.miniatures.parts import write_bytes, write_image


def shown(seed: int, number: int) -> UInt8[np.ndarray, "k h w"]:
    """The slices of a volume in 8 bits."""
    return np.rint((picture(seed, number)[0].astype(np.float32).clip(-200, 300) + 200) * 0.51).astype(np.uint8)


@MINIATURES.register("lits_png")
def write(folder: Path, seed: int = 0) -> None:
    """dataset_6/dataset_6/volume-0_0.png (RGB), segmentation-0_livermask_0.png and segmentation-0_lesionmask_0.png (0
    or 255), and a list of the release beside them.
    """
    place = folder / "dataset_6" / "dataset_6"
    for number in CASES:
        _, masks = picture(seed, number)
        for k, (image, mask) in enumerate(zip(shown(seed, number), masks)):
            write_image(place / f"volume-{number}_{k}.png", np.dstack([image] * 3))
            write_image(place / f"segmentation-{number}_livermask_{k}.png", (mask > 0).astype(np.uint8) * 255)
            write_image(place / f"segmentation-{number}_lesionmask_{k}.png", (mask == 2).astype(np.uint8) * 255)
    write_bytes(folder / "lits_train.csv", b"filepath,liver_maskpath,tumor_maskpath,study_number,instance_number\n")
