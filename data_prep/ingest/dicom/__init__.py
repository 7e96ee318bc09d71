"""CT slices out of DICOM files: what each is (header pass) and its Hounsfield units (pixel pass).

Nothing is guessed: a file whose values can't be turned into Hounsfield units by its own header is rejected, with a
reason. Hounsfield units come from the modality transform alone; how a viewer would show them (window, VOI LUT,
MONOCHROME1, presentation LUT shape, overlays) is ignored. `display` reads other modalities as a viewer shows them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Int16
import numpy as np
from pydicom.dataset import FileDataset

from data_prep.ingest.dicom.extent import check_extent
from data_prep.ingest.dicom.geometry import Plane, frame_measures, frame_plane
from data_prep.ingest.dicom.pixels import hounsfield
from data_prep.ingest.dicom.plain import Elements, read_plain
from data_prep.ingest.dicom.rules import check_ct, hu_transform
from data_prep.ingest.dicom.tags import BROKEN, frame_count, functional_group, quiet, read, text, values
from data_prep.ingest.files import Version
from data_prep.spec import Reject


class Header(NamedTuple):
    """What the plan needs of one frame; empty strings where the file says nothing. Private: holds identifiers.

    Attributes:
      frame: number of the frame in its file, from 0.
      stack: name of the stack in an enhanced file; slices of different stacks belong to different series.
      plane: where the slice lies, None where the header does not say it.
      instance: the file's own number.
      size: rows and columns.
      spacing: mm between rows and between columns, None where the header does not say it.
      thickness: of the slice, mm, None likewise.
    """

    sop_instance: str
    study: str
    series: str
    patient: str
    body_part: str
    sex: str
    age: str
    manufacturer: str
    frame: int
    stack: str
    plane: Plane | None
    instance: int | None
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    thickness: float | None


def read_headers(path: Path, *, burned_in: bool = False) -> list[Header]:
    """Reads the header of one file and decides whether it holds usable CT slices; one Header for each frame.

    Args:
      path: the file.
      burned_in: whether files with BurnedInAnnotation = YES are taken.

    Raises:
      Reject: empty_file, unreadable, truncated, not_dicom, dose_report, structured_report, secondary_capture, not_ct,
        localizer, burned_in_annotation, not_monochrome, unsupported_bits, bad_frame_groups, missing_rescale,
        bad_rescale, ambiguous_rescale, not_hu, bad_header.
    """
    plain = read_plain(path, pixels=False)
    with quiet() if plain is None else contextlib.nullcontext():
        dataset: Elements = read(path, header_only=True) if plain is None else plain
        try:
            check_ct(dataset, burned_in=burned_in)
            check_extent(dataset)
            return [header(dataset, frame) for frame in range(frame_count(dataset))]
        except BROKEN as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error


def header(dataset: Elements, frame: int) -> Header:
    """Header of one frame of an opened file."""
    content = functional_group(dataset, frame, "FrameContentSequence")
    spacing, thickness = frame_measures(dataset, frame)
    return Header(
        sop_instance=text(dataset, "SOPInstanceUID") or str(dataset.file_meta.get("MediaStorageSOPInstanceUID", "")),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        patient=text(dataset, "PatientID"),
        body_part=_body_part(dataset),
        sex=text(dataset, "PatientSex"),
        age=text(dataset, "PatientAge"),
        manufacturer=text(dataset, "Manufacturer"),
        frame=frame,
        stack=text(content, "StackID") if content is not None else "",
        plane=frame_plane(dataset, frame),
        instance=_instance(text(dataset, "InstanceNumber")),
        size=(int(dataset.Rows), int(dataset.Columns)),
        spacing=spacing,
        thickness=thickness,
    )


def _instance(number: str) -> int | None:
    """InstanceNumber; None where it is absent or beyond 64 bits, since it only orders slices that have no position."""
    if not number:
        return None
    value = float(number)
    return int(value) if abs(value) < 1 << 63 else None


def _body_part(dataset: Elements) -> str:
    """BodyPartExamined is a code, ASCII by the standard; writers put umlauts there in the file's character set, which
    pydicom does not apply to codes.
    """
    part = text(dataset, "BodyPartExamined")
    if "ISO_IR 192" in [str(v) for v in values(dataset, "SpecificCharacterSet")]:
        with contextlib.suppress(UnicodeError):
            return part.encode("latin-1").decode("utf-8")
    return part


def read_hu(
    path: Path, value_range: tuple[float, float], frame: int = 0, *, burned_in: bool = False
) -> Int16[np.ndarray, "h w"]:
    """Reads one CT slice as Hounsfield units, rounded to integers and clipped to `value_range`.

    HU = slope * stored value + intercept (or the modality LUT) in float64, then rounded half to even. Pixels of
    PixelPaddingValue (to PixelPaddingRangeLimit), which lie outside the field of view, become the range's lowest value.

    Raises:
      Reject: as `read_headers`, and no_pixel_data, truncated, size_mismatch, undecodable, memory_limit.
    """
    plain = read_plain(path, pixels=True)
    with quiet() if plain is None or plain.encapsulated else contextlib.nullcontext():
        try:
            dataset: Elements = open_frames(path) if plain is None else plain
            check_ct(dataset, burned_in=burned_in)
            if not 0 <= frame < frame_count(dataset):
                raise Reject("bad_header", f"no frame {frame}")
            transform = hu_transform(dataset, frame)
            return hounsfield(dataset, frame, transform, value_range)
        except BROKEN as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error


_open: tuple[Version, FileDataset] | None = None


def open_frames(path: Path) -> FileDataset:
    """Reads a whole file; the last one with several frames stays open, since its frames are asked for in turn."""
    global _open
    if _open is not None and path.is_file() and _open[0] == Version.of(path):
        return _open[1]
    _open = None
    dataset = read(path, header_only=False)
    if frame_count(dataset) > 1:
        _open = (Version.of(path), dataset)
    return dataset
