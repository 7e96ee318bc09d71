"""Masks of new images as files, on the images' own grids.

NIfTI for volumes, DICOM Segmentation for series where it is asked for, PNG for other images; values are the classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
import importlib
import itertools
from pathlib import Path
import re
from typing import Any

from absl import logging
import cv2
from jaxtyping import UInt8
import nibabel
import numpy as np

from data_prep.ingest import nifti
from data_prep.ingest.dicom import tags
from data_prep.ingest.image import unfit_mask
from data_prep.raw import look
from data_prep.spec import Row
from radnet_jax import __version__
from radnet_jax.errors import UserError
from radnet_jax.new_images import NewImages

FORMATS = ("images", "dicom_seg")
_SUFFIX = re.compile(r"\.(nii(\.gz)?|dcm|dicom|png|jpe?g|tiff?|bmp|npy)$", re.IGNORECASE)
Mask = UInt8[np.ndarray, "h w"]


def check(form: str) -> None:
    """Refuses DICOM Segmentation where the package for it is not installed."""
    if form == "dicom_seg":
        try:
            importlib.import_module("highdicom")
        except ImportError as error:
            raise UserError(
                "config.masks=dicom_seg needs highdicom", fix="pip install 'radnet_jax[dicom_seg]'"
            ) from error


def stems(names: Sequence[str]) -> list[str]:
    """Returns names of files without the suffix of an image; whole where two files would have one name.

    What follows the last point of a DICOM file's name may be a part of its identifier: only known suffixes go.
    """
    short = [_SUFFIX.sub("", name) for name in names]
    of: dict[str, set[str]] = {}
    for name, stem in zip(names, short, strict=True):
        of.setdefault(stem, set()).add(name)
    return [stem if len(of[stem]) == 1 else name for name, stem in zip(names, short, strict=True)]


def write(
    images: NewImages, masks: Iterable[Mask], names: Sequence[str], folder: Path, form: str
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Writes the masks of all images; yields (row, pixels of each class on the image's own grid) meanwhile.

    Args:
      images: the new images; rows of one file follow each other.
      masks: of each row, of the stored size; values 0 to the number of classes.
      names: of the files to write, by row, without a suffix.
      folder: made if need be.
      form: "dicom_seg" writes a DICOM Segmentation for each DICOM series (`stacks`), named as its first image; or
        "images".
    """
    series: dict[str, list[tuple[Row, Mask, str]]] = {}
    rows = zip(itertools.count(), images.rows, masks, names)
    for path, members in itertools.groupby(rows, key=lambda member: member[1].path):
        of_file = []
        for number, row, mask, name in members:
            if (path, row.frame) in images.rejected:
                continue
            own = unfit_mask(mask, _size(images, row), images.card.stored.resize)
            yield number, tuple(int((own == k).sum()) for k in range(1, len(images.card.segmentation) + 1))
            of_file.append((row, own, name))
        if not of_file:
            continue
        row, own, name = of_file[0]
        if nifti.is_nifti(path):
            _write_volume(images.folder / path, of_file, folder / f"{name}.nii.gz")
        elif form == "dicom_seg":
            series.setdefault(row.series or path, []).extend(of_file)
        else:
            for row, own, name in of_file:
                _write_png(folder / (f"{name}.png" if len(of_file) == 1 else f"{name}_{row.frame}.png"), own)
    for slices in series.values():
        _write_series(images, slices, folder)


def _size(images: NewImages, row: Row) -> tuple[int, int]:
    """Rows and columns of an image as it is in its file."""
    size = row.size or look(images.folder / row.path).size
    assert size is not None  # it was read
    return size


def _write_png(path: Path, mask: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), mask):
        raise UserError(f"{path} can't be written", fix="free space or permissions there")


def _write_volume(source: Path, slices: Sequence[tuple[Row, Mask, str]], path: Path) -> None:
    """A volume with the grid and the affine of its image; slices that were not read are empty."""
    volume = np.zeros(nifti.open_volume(source).stored.shape, np.uint8)
    axial = nifti.axial(volume, nifti.read_layout(source))  # a view
    for row, mask, _ in slices:
        axial[row.frame] = mask
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = nibabel.load(source)
    nibabel.save(nibabel.Nifti1Image(volume, image.affine), path)


def _write_series(images: NewImages, slices: Sequence[tuple[Row, Mask, str]], folder: Path) -> None:
    """DICOM Segmentations of one series, each named as its first image; PNGs of images that can't have one."""
    files = list(dict.fromkeys(row.path for row, _, _ in slices))
    if len(files) < len(slices):
        raise UserError("DICOM Segmentation of files with several frames", fix="set config.masks=images")
    sources: list[Any] = [tags.read(images.folder / name, header_only=False) for name in files]
    for members in stacks(sources):
        name = slices[members[0]][2]
        try:
            _write_seg(images, [sources[i] for i in members], [slices[i][1] for i in members], folder / f"{name}.dcm")
        except (ValueError, AttributeError, TypeError) as error:  # whose words may hold values of the file
            logging.warning("%s: no DICOM Segmentation can be made of it (%s)", name, type(error).__name__)
            for i in members:
                _write_png(folder / f"{slices[i][2]}.png", slices[i][1])


def stacks(sources: Sequence[Any]) -> list[list[int]]:
    """Returns the numbers of the images of a series that one DICOM Segmentation can be of, in their order.

    Its images are of one size and orientation, each at a place of its own; an image without a place stands alone.
    """
    found: dict[Any, list[int]] = {}
    seen: Counter[Any] = Counter()
    for i, source in enumerate(sources):
        turn, place = (source.get(f"Image{name}Patient") for name in ("Orientation", "Position"))
        key: Any = i
        if turn and place and source.get("FrameOfReferenceUID"):
            plane = (source.FrameOfReferenceUID, source.Rows, source.Columns, *(round(float(v), 4) for v in turn))
            at = (plane, *(round(float(v), 3) for v in place))
            key = (plane, seen[at])  # the second image of a place is of the second stack
            seen[at] += 1
        found.setdefault(key, []).append(i)
    return list(found.values())


def _write_seg(images: NewImages, sources: Sequence[Any], masks: Sequence[Mask], path: Path) -> None:
    """A DICOM Segmentation of images; like any DICOM object it carries their patient."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    tissue = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    algorithm = hd.AlgorithmIdentificationSequence("radnet_jax", codes.cid7162.ArtificialIntelligence, __version__)
    described = [
        hd.seg.SegmentDescription(
            segment_number=k,
            segment_label=name,
            segmented_property_category=tissue,
            segmented_property_type=tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for k, name in enumerate(images.card.segmentation, start=1)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack(masks),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="radnet_jax",
        manufacturer_model_name="radnet_jax",
        software_versions=__version__,
        device_serial_number="1",
        omit_empty_frames=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
