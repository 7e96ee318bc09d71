"""DRIVE: training and test images with vessels and fields of view."""

from __future__ import annotations

from pathlib import Path

import cv2
from jaxtyping import UInt8
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import write_gif, write_image

ROWS, COLUMNS = 52, 48


def eye(
    seed: int, number: int
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """The photograph, the vessels of the first and of the second observer, the field of view."""
    rng = np.random.default_rng((seed, number))
    field = cv2.circle(np.zeros((ROWS, COLUMNS), np.uint8), (COLUMNS // 2, ROWS // 2), 22, 1, -1)
    vessels = np.zeros_like(field)
    disc = (int(rng.integers(14, 20)), ROWS // 2)
    for angle in rng.uniform(-1.2, 1.2, 5):
        end = (int(disc[0] + 30 * np.cos(angle)), int(disc[1] + 30 * np.sin(angle)))
        cv2.line(vessels, disc, end, 1, int(rng.integers(1, 3)))
    second = cv2.dilate(vessels, np.ones((2, 2), np.uint8)) * field
    vessels = vessels * field
    image = np.zeros((ROWS, COLUMNS, 3), np.float32)
    image[:] = (190, 90, 40)
    image[vessels > 0] = (140, 40, 20)
    image += rng.normal(0, 4, image.shape)
    return (image.clip(0, 255) * field[..., None]).astype(np.uint8), vessels, second, field


@MINIATURES.register("drive")
def write(folder: Path, seed: int = 0) -> None:
    """DRIVE/training and DRIVE/test in the release with both observers of the test images."""
    for number in (21, 22, 23, 24, 1, 2):
        part = "training" if number > 20 else "test"
        image, vessels, second, field = eye(seed, number)
        root = folder / "DRIVE" / part
        write_image(root / "images" / f"{number:02d}_{part}.tif", image)
        write_gif(root / "1st_manual" / f"{number:02d}_manual1.gif", vessels)
        write_gif(root / "mask" / f"{number:02d}_{part}_mask.gif", field)
        if part == "test":
            write_gif(root / "2nd_manual" / f"{number:02d}_manual2.gif", second)
