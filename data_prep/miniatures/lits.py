"""LiTS 2017 as NIfTI: two training batches, with the faults of the release (see `data_prep/datasets/lits.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
from jaxtyping import Int16, UInt8
import nibabel
import numpy as np

from data_prep.miniatures import MINIATURES

SLICES, ROWS, COLUMNS = 8, 40, 48
SPACING = (5.0, 0.8, 0.75)  # mm between slices, rows and columns


class Case(NamedTuple):
    """How a volume is written: axis codes of its voxels and of its affine ("" = identity), the same of its mask."""

    file: str
    axes: str
    affine: str
    mask_affine: str
    tumour: bool = True


CASES = {
    0: Case("Training Batch 1/volume-0.nii", "LAS", "LAS", "LAS"),
    1: Case("Training Batch 1/volume-1.nii.gz", "LPS", "LPS", "LPS"),
    2: Case("Training Batch 1/volume-2.nii", "RAS", "RAS", "RAS", tumour=False),
    28: Case("Training Batch 2/volume-28.nii", "LAS", "", ""),
    29: Case("Training Batch 2/volume-29.nii.gz", "LAS", "", "", tumour=False),
    53: Case("Training Batch 2/volume-53.nii", "LAS", "LAS", ""),
    70: Case("Training Batch 2/volume-70.nii", "LPI", "LPI", "RAS"),
}


def picture(seed: int, number: int) -> tuple[Int16[np.ndarray, "k h w"], UInt8[np.ndarray, "k h w"]]:
    """Hounsfield units and mask of a volume from feet to head, as a radiologist sees the slices: the liver on the left
    of the picture, the spine below.
    """
    rng = np.random.default_rng((seed, number))
    hu = np.full((SLICES, ROWS, COLUMNS), -1000.0, np.float32)
    mask = np.zeros(hu.shape, np.uint8)
    x, y = rng.uniform(22, 25), rng.uniform(19, 21)
    for k in range(SLICES):
        _paint(hu[k], (x, y), (20, 15), 20)
        _paint(hu[k], (x, y + 10), (3, 3), 600)  # the spine
        _paint(hu[k], (x + 10, y - 2), (4, 4), 35)  # the stomach
        if 1 < k < SLICES - 1:
            size = 1 - 0.08 * abs(k - 4)
            _paint(hu[k], (x - 9, y - 2), (8 * size, 9 * size), 110, mask[k], 1)
            if CASES[number].tumour and k in (3, 4):
                _paint(hu[k], (x - 11, y), (2.5, 3), 60, mask[k], 2)
    hu += rng.normal(0, 8, hu.shape).astype(np.float32)
    return np.rint(hu).clip(-1024, 3071).astype(np.int16), mask


def _paint(
    image: np.ndarray, centre: tuple[float, float], half: tuple[float, float], value: float,
    mask: np.ndarray | None = None, label: int = 0,
) -> None:  # fmt: skip
    box = (centre, (2 * half[0], 2 * half[1]), 0.0)
    cv2.ellipse(image, box, value, -1)
    if mask is not None:
        cv2.ellipse(mask, box, label, -1)


@MINIATURES.register("lits")
def write(folder: Path, seed: int = 0) -> None:
    """Training Batch 1/volume-0.nii, segmentation-0.nii and so on, some gzipped, and a volume of the test set. Volumes
    28 and 29 have an identity for an affine; the masks of 53 and 70 another affine than their volumes.
    """
    for number, case in CASES.items():
        hu, mask = picture(seed, number)
        path = folder / case.file
        path.parent.mkdir(exist_ok=True)
        _write(path, hu, case.axes, case.affine)
        _write(path.with_name(path.name.replace("volume", "segmentation")), mask, case.axes, case.mask_affine)
    _write(folder / "test-volume-0.nii", picture(seed, 0)[0], "LAS", "LAS")


def _write(path: Path, slices: np.ndarray, axes: str, affine: str) -> None:
    """Writes slices that lie as in `picture` with voxels that run along `axes`, whatever the affine then says."""
    # Columns run to the left, rows to the back: the voxels of an "LPS" volume.
    voxels = nibabel.orientations.apply_orientation(
        slices.transpose(2, 1, 0),
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(axes)
        ),
    )
    matrix = np.eye(4)
    if affine:
        signs = [1 if code in "RAS" else -1 for code in affine]
        matrix = np.diag([*np.array(signs) * SPACING[::-1], 1.0])
        matrix[:3, 3] = (-150.0, -120.0, 30.0)
    nibabel.save(nibabel.Nifti1Image(voxels, matrix), path)
