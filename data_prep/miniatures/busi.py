"""BUSI: three folders of ultrasound images, each image beside its masks."""

from __future__ import annotations

from pathlib import Path

import cv2
from jaxtyping import UInt8
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import write_image

# image: its lesions as (column, row, half axes), in parts of the image
IMAGES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "benign (1)": ((0.5, 0.4, 0.2, 0.15),),
    "benign (2)": ((0.3, 0.4, 0.1, 0.1), (0.7, 0.5, 0.12, 0.08), (0.5, 0.8, 0.08, 0.08)),
    "benign (3)": ((0.6, 0.5, 0.15, 0.1),),
    "malignant (1)": ((0.4, 0.5, 0.2, 0.25),),
    "malignant (2)": ((0.6, 0.6, 0.2, 0.2),),
    "malignant (3)": ((0.5, 0.5, 0.1, 0.2),),
    "normal (1)": (),
    "normal (2)": (),
    "normal (3)": (),
}
COPIES = {"benign (4)": "benign (1)", "benign (5)": "malignant (3)"}  # equal byte for byte


def scan(seed: int, name: str) -> tuple[UInt8[np.ndarray, "h w"], list[UInt8[np.ndarray, "h w"]]]:
    """The image and one 0/1 mask for each lesion."""
    number = list(IMAGES).index(name)
    height, width = 40 + 4 * (number % 3), 56
    rng = np.random.default_rng((seed, number))
    masks = []
    for x, y, a, b in IMAGES[name]:
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, ((x * width, y * height), (2 * a * width, 2 * b * height), 0.0), 1, -1)
        masks.append(mask)
    image = np.linspace(140, 60, height)[:, None] * rng.rayleigh(0.8, (height, width))
    for mask in masks:
        image[mask > 0] *= 0.25
    return image.clip(0, 255).astype(np.uint8), masks


@MINIATURES.register("busi")
def write(folder: Path, seed: int = 0) -> None:
    """Dataset_BUSI_with_GT/benign/benign (1).png (RGB), benign (1)_mask.png, benign (2)_mask_1.png and so on. The image
    of a lesion stands in two classes, and another twice in one.
    """
    root = folder / "Dataset_BUSI_with_GT"
    for name in (*IMAGES, *COPIES):
        image, masks = scan(seed, COPIES.get(name, name))
        place = root / name.split(" ")[0]
        write_image(place / f"{name}.png", np.dstack([image] * 3))
        for k, mask in enumerate(masks or [np.zeros_like(image)]):
            write_image(place / (f"{name}_mask_{k}.png" if k else f"{name}_mask.png"), mask * 255)
