"""Axial slices out of NIfTI volumes, by their affine.

A volume is brought to its closest canonical orientation; a slice then lies as a DICOM axial slice does: rows run from
anterior to posterior, columns from the patient's right to the left. Slices run from feet to head. A file without an
affine of its own is rejected: no orientation is made up.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import Any, NamedTuple
import zlib

from jaxtyping import Float, Int16, Num, UInt8
import nibabel
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
import numpy as np

from data_prep.guard import check_memory
from data_prep.ingest.files import Version
from data_prep.spec import Reject
from radnet_jax.preprocessing import UNKNOWN_MASK

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


class Layout(NamedTuple):
    """How a stored volume lies in the patient.

    Attributes:
      axes: the stored axis that runs along right, anterior and superior.
      backwards: whether it runs the other way.
    """

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]


class Volume(NamedTuple):
    """An opened volume: a value is slope * stored + intercept."""

    stored: Num[np.ndarray, "x y z"]
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
    axes = _layout(image).axes
    columns, rows, slices = (_shape(image)[axis] for axis in axes)
    across, down, along = (float(np.linalg.norm(image.affine[:3, axis])) for axis in axes)
    return Header(slices, along, (rows, columns), (down, across))


def read_layout(path: Path) -> Layout:
    """How a volume lies by its affine.

    Raises:
      Reject: as `read_header`.
    """
    return _grid(_version(path))[2]


def axial(stored: Num[np.ndarray, "x y z"], layout: Layout) -> Num[np.ndarray, "k h w"]:
    """The axial slices of a stored volume from feet to head, as a view of it."""
    slices = stored.transpose(layout.axes[::-1])
    # Rows run from anterior, columns from the right: against the canonical axes, where slices run along theirs.
    right, anterior, superior = layout.backwards
    return slices[:: -1 if superior else 1, :: 1 if anterior else -1, :: 1 if right else -1]


def read_slice(path: Path, index: int, layout: Layout | None = None) -> Float[np.ndarray, "h w"]:
    """Reads one axial slice with scl_slope and scl_inter applied.

    Args:
      path: of the volume.
      index: of the slice, from the feet.
      layout: how the volume lies, where its own affine is not to be believed.

    Raises:
      Reject: as `read_header`, and truncated, not_finite.
    """
    values = _values(path, index, layout)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Reject("not_finite")
    return values.astype(np.float64)


def _values(path: Path, index: int, layout: Layout | None) -> Num[np.ndarray, "h w"]:
    """One axial slice with its scaling: as stored where that is whole numbers and there is none, else in float64."""
    volume = open_volume(path)
    slices = axial(volume.stored, read_layout(path) if layout is None else layout)
    if not 0 <= index < len(slices):
        raise Reject("not_3d", f"no slice {index}")
    plane = np.ascontiguousarray(slices[index])
    whole = plane.dtype.kind != "f" and plane.dtype.itemsize < 8
    if whole and (volume.slope, volume.intercept) == (1.0, 0.0):
        return plane
    return plane.astype(np.float64) * volume.slope + volume.intercept


def read_hu(
    path: Path, index: int, value_range: tuple[float, float], layout: Layout | None = None
) -> Int16[np.ndarray, "h w"]:
    """Reads one axial slice of a CT volume as Hounsfield units, rounded and clipped. That it is CT, the dataset says:
    NIfTI keeps no modality.

    Raises:
      Reject: as `read_slice`.
    """
    values = _values(path, index, layout)
    if values.dtype.kind != "f":
        lowest, highest = map(int, value_range)
        return values.astype(np.int64, copy=False).clip(lowest, highest).astype(np.int16)
    if not np.isfinite(values).all():
        raise Reject("not_finite")
    return np.rint(values).clip(*value_range).astype(np.int16)


def read_mask(path: Path, index: int, image: Path, layout: Layout | None = None) -> UInt8[np.ndarray, "h w"]:
    """Reads one axial slice of a label volume that has the grid of `image`.

    Args:
      path: of the labels.
      index: of the slice, from the feet.
      image: the volume that they belong to.
      layout: how both lie, where the affines are not to be believed: then the voxels belong together by their number,
        and only the shapes have to be the same.

    Raises:
      Reject: as `read_slice`, and mask_mismatch (another grid), mask_value (not whole numbers from 0 to 255).
    """
    check_same_grid(path, image, affine=layout is None)
    values = _values(path, index, layout)
    whole = values.dtype.kind != "f" or (values == np.rint(values)).all()
    if not whole or values.min() < 0 or values.max() > UNKNOWN_MASK:
        raise Reject("mask_value")
    return values.astype(np.uint8)


def check_same_grid(path: Path, image: Path, *, affine: bool = True, reason: str = "mask_mismatch") -> None:
    """Rejects a volume of another shape than `image`, or of another affine where that counts."""
    if affine:
        (shape, own, _), (expected, theirs, _) = _grid(_version(path)), _grid(_version(image))
        same = shape == expected and np.allclose(own, theirs, atol=1e-2)
    else:
        same = _shape(_load(path)) == _shape(_load(image))
    if not same:
        raise Reject(reason)


def _version(path: Path) -> Version:
    if not path.is_file():
        raise Reject("unreadable", "not a regular file")
    return Version.of(path)


@functools.lru_cache(maxsize=8)  # asked for with each slice of the volumes that are open
def _grid(version: Version) -> tuple[tuple[int, int, int], Float[np.ndarray, "4 4"], Layout]:
    image = _load(version.path)
    return _shape(image), image.affine, _layout(image)


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


def _layout(image: nibabel.Nifti1Image) -> Layout:
    _shape(image)
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        raise Reject("no_affine")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise Reject("no_affine", "singular")
    turns = io_orientation(image.affine)
    places = [int(np.flatnonzero(turns[:, 0] == axis)[0]) for axis in range(3)]
    first, second, third = ((place, bool(turns[place, 1] < 0)) for place in places)
    return Layout((first[0], second[0], third[0]), (first[1], second[1], third[1]))


_opened: dict[Version, Volume] = {}
_KEPT_VOLUMES = 6  # an image of several sequences and its mask
_KEPT_BYTES = 1 << 30


def open_volume(path: Path) -> Volume:
    """Opens a volume. The last ones stay open, since slices are asked for in turn and a .gz has to be read whole: two
    (an image and its mask), or up to six as long as they are small.

    Raises:
      Reject: unreadable, not_nifti, not_3d, not_scalar, memory_limit, truncated.
    """
    version = _version(path)
    if version in _opened:
        return _opened[version]
    image = _load(path)
    shape = _shape(image)
    size = int(np.prod(shape)) * image.get_data_dtype().itemsize
    check_memory(size)
    while len(_opened) > 1 and (
        len(_opened) >= _KEPT_VOLUMES or size + sum(v.stored.nbytes for v in _opened.values()) > _KEPT_BYTES
    ):
        del _opened[next(iter(_opened))]  # before the next is read, so that no three large ones are held
    try:
        proxy: Any = image.dataobj
        stored = np.asanyarray(proxy.get_unscaled()).reshape(shape)
    except _BROKEN as error:
        raise Reject("truncated", f"{type(error).__name__}: {error}") from error
    _opened[version] = Volume(stored, float(proxy.slope), float(proxy.inter))
    return _opened[version]
