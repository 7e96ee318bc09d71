"""Axial slices out of NIfTI volumes, by their affine.

A volume is brought to its closest canonical orientation; a slice then lies as a DICOM axial slice does: rows run from
anterior to posterior, columns from the patient's right to the left. Slices run from feet to head. A file without an
affine of its own is rejected: no orientation is made up.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple
import zlib

from jaxtyping import Float, Int16, UInt8
import nibabel
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
import numpy as np

from data_prep.guard import check_memory
from data_prep.ingest.files import Version
from data_prep.spec import UNKNOWN_MASK, Reject

SUFFIXES = (".nii", ".nii.gz")
_BROKEN = (ImageFileError, OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile)


class Header(NamedTuple):
    """What the plan needs of a volume.

    Attributes:
      slices: number of axial slices.
      spacing: between slices along their normal, mm.
      size: rows and columns of an axial slice.
      pixel_spacing: between rows and between columns, mm.
    """

    slices: int
    spacing: float
    size: tuple[int, int]
    pixel_spacing: tuple[float, float]


class _Volume(NamedTuple):
    """An opened volume: unscaled values as stored, and the way from there."""

    data: np.ndarray
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    slope: float
    intercept: float


def is_nifti(path: str | Path) -> bool:
    return str(path).lower().endswith(SUFFIXES)


def read_header(path: Path) -> Header:
    """Reads the header of a volume.

    Raises:
      Reject: unreadable, not_nifti, not_3d, not_scalar, no_affine, memory_limit.
    """
    image = _load(path)
    axes, _ = _orientation(image)
    columns, rows, slices = (_shape(image)[axis] for axis in axes)
    across, down, along = (float(np.linalg.norm(image.affine[:3, axis])) for axis in axes)
    return Header(slices, along, (rows, columns), (down, across))


def read_slice(path: Path, index: int) -> Float[np.ndarray, "h w"]:
    """Reads one axial slice with scl_slope and scl_inter applied.

    Raises:
      Reject: as `read_header`, and truncated, not_finite.
    """
    if not path.is_file():
        raise Reject("unreadable", "not a regular file")
    volume = _open(Version.of(path))
    values = _slice(volume, index).astype(np.float64) * volume.slope + volume.intercept
    if not np.isfinite(values).all():
        raise Reject("not_finite")
    return values


def read_hu(path: Path, index: int, value_range: tuple[float, float]) -> Int16[np.ndarray, "h w"]:
    """Reads one axial slice of a CT volume as Hounsfield units, rounded and clipped. That it is CT, the dataset says:
    NIfTI keeps no modality.

    Raises:
      Reject: as `read_slice`.
    """
    return np.rint(read_slice(path, index)).clip(*value_range).astype(np.int16)


def read_mask(path: Path, index: int, image: Path) -> UInt8[np.ndarray, "h w"]:
    """Reads one axial slice of a label volume that has the grid of `image`.

    Raises:
      Reject: as `read_slice`, and mask_mismatch (another grid), mask_value (not whole numbers from 0 to 255).
    """
    labels, grid = _load(path), _load(image)
    if _shape(labels) != _shape(grid) or not np.allclose(labels.affine, grid.affine, atol=1e-2):
        raise Reject("mask_mismatch")
    values = read_slice(path, index)
    if (values != np.rint(values)).any() or values.min() < 0 or values.max() > UNKNOWN_MASK:
        raise Reject("mask_value")
    return values.astype(np.uint8)


def _load(path: Path) -> nibabel.Nifti1Image:
    try:
        if not path.is_file():
            raise Reject("unreadable", "not a regular file")
        image = nibabel.load(path)
    except _BROKEN as error:
        raise Reject("not_nifti", f"{type(error).__name__}: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise Reject("not_nifti", type(image).__name__)
    return image


def _shape(image: nibabel.Nifti1Image) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) * (3 - len(shape))
    if len(shape) != 3 or min(shape) < 1:
        raise Reject("not_3d", str(image.shape))
    if image.get_data_dtype().kind not in "iuf":
        raise Reject("not_scalar", str(image.get_data_dtype()))
    return shape[0], shape[1], shape[2]


def _orientation(image: nibabel.Nifti1Image) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each of the canonical axes (right, anterior, superior): the stored axis, and whether it runs backwards."""
    _shape(image)
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        raise Reject("no_affine")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise Reject("no_affine", "singular")
    turns = io_orientation(image.affine)
    places = [int(np.flatnonzero(turns[:, 0] == axis)[0]) for axis in range(3)]
    first, second, third = ((place, bool(turns[place, 1] < 0)) for place in places)
    return (first[0], second[0], third[0]), (first[1], second[1], third[1])


_opened: dict[Version, _Volume] = {}


def _open(version: Version) -> _Volume:
    """Opens a volume. The last two (an image and its mask) stay open: slices are asked for in turn, and a .gz has to be
    read whole.
    """
    if version in _opened:
        return _opened[version]
    while len(_opened) > 1:
        del _opened[next(iter(_opened))]  # before the next is read, so that no three are held
    image = _load(version.path)
    axes, flips = _orientation(image)
    shape = _shape(image)
    check_memory(int(np.prod(shape)) * image.get_data_dtype().itemsize)
    try:
        proxy: Any = image.dataobj
        data = np.asanyarray(proxy.get_unscaled()).reshape(shape)
    except _BROKEN as error:
        raise Reject("truncated", f"{type(error).__name__}: {error}") from error
    _opened[version] = _Volume(data, axes, flips, float(proxy.slope), float(proxy.inter))
    return _opened[version]


def _slice(volume: _Volume, index: int) -> np.ndarray:
    right, anterior, superior = volume.data.transpose(volume.axes).shape
    if not 0 <= index < superior:
        raise Reject("not_3d", f"no slice {index}")
    plane = volume.data.transpose(volume.axes)[..., superior - 1 - index if volume.flips[2] else index]
    plane = plane[::-1] if not volume.flips[0] else plane
    plane = plane[:, ::-1] if not volume.flips[1] else plane
    assert plane.shape == (right, anterior)
    return np.asarray(plane.T)
