"""CT slices out of DICOM files: what each is (header pass) and its Hounsfield units (pixel pass).

Nothing is guessed: a file whose values can't be turned into Hounsfield units by its own header is rejected, with a
reason.
Standard: DICOM PS3.3 C.8.2.1 (CT Image Module), C.11.1 (Modality LUT), C.7.6.2 (Image Plane).
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import math
from pathlib import Path
from typing import NamedTuple
import warnings

from jaxtyping import Float, Int, Int16
import numpy as np
import pydicom
from pydicom import config as pydicom_config
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.spec import Reject

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # enhanced, legacy converted enhanced
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientSex", "PatientAge",
    "BodyPartExamined", "Manufacturer", "ImageType", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
]  # fmt: skip


class Header(NamedTuple):
    """What the plan needs of one CT file; empty strings where the file says nothing. Private: holds identifiers."""

    sop_instance: str
    study: str
    series: str
    patient: str
    body_part: str
    sex: str
    age: str
    manufacturer: str
    position: float | None
    instance: int | None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences pydicom and the decoders: their warnings and log lines quote the values of the file."""
    before = pydicom_config.settings.reading_validation_mode
    levels = {name: logging.getLogger(name).level for name in ("pydicom", "pylibjpeg")}
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom_config.settings.reading_validation_mode = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def read_header(path: Path) -> Header:
    """Reads the header of one file and decides whether it is a usable CT slice.

    Raises:
      Reject: empty_file, unreadable, not_dicom, multi_frame, secondary_capture, not_ct, localizer, not_monochrome,
        monochrome1, unsupported_bits, missing_rescale, bad_rescale, not_hu, bad_header.
    """
    with _quiet():
        dataset = _read(path, header_only=True)
        try:
            _check_usable(dataset)
            return _header(dataset)
        except (ValueError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error


def read_hu(path: Path, value_range: tuple[float, float]) -> Int16[np.ndarray, "h w"]:
    """Reads one CT slice as Hounsfield units, rounded to integers and clipped to `value_range`.

    HU = slope * stored value + intercept in float64, then rounded half to even. Pixels of PixelPaddingValue (outside
    the field of view) that would land above the range become its lowest value.

    Raises:
      Reject: as `read_header`, and no_pixel_data, truncated, undecodable.
    """
    low, high = value_range
    with _quiet():
        dataset = _read(path, header_only=False)
        try:
            _check_usable(dataset)
            slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        except (ValueError, TypeError, AttributeError) as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error
        stored = _stored_values(dataset)
        hu = stored.astype(np.float64) * slope + intercept
        padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        hu[(stored == padding) & (hu > high)] = low
    return np.rint(hu).clip(low, high).astype(np.int16)


def _read(path: Path, *, header_only: bool) -> FileDataset:
    tags = HEADER_TAGS if header_only else None
    try:
        if path.stat().st_size == 0:
            raise Reject("empty_file")
        try:
            return pydicom.dcmread(path, stop_before_pixels=header_only, specific_tags=tags)
        except InvalidDicomError:
            return _read_bare(path, header_only)
    except Reject:
        raise
    except (OSError, EOFError) as error:
        raise Reject("truncated" if isinstance(error, EOFError) else "unreadable", str(error)) from error
    except Exception as error:  # a broken header can raise anything in the parser
        raise Reject("not_dicom", f"{type(error).__name__}: {error}") from error


def _read_bare(path: Path, header_only: bool) -> FileDataset:
    """Old archives keep data sets without preamble and file meta; such a file must say itself that it is an image."""
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=header_only)
        bare = bool(dataset.get("SOPClassUID")) and bool(dataset.get("Rows"))
    except Exception as error:
        raise Reject("not_dicom", f"{type(error).__name__}: {error}") from error
    if not bare:
        raise Reject("not_dicom")
    implicit = dataset.original_encoding[0]
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def _text(dataset: FileDataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip().strip("\0")


def _check_usable(dataset: FileDataset) -> None:
    sop_class = _text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if sop_class in MULTI_FRAME_CT or int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Reject("multi_frame")
    if sop_class.startswith(SECONDARY_CAPTURE):
        raise Reject("secondary_capture")
    if sop_class != CT_IMAGE:
        raise Reject("not_ct", f"SOP class {sop_class or 'missing'}")
    image_type = [str(v).upper() for v in _values(dataset, "ImageType")]
    if any("LOCALIZER" in v for v in image_type):
        raise Reject("localizer")
    if any(v.replace(" ", "").replace("_", "") == "SCREENSAVE" for v in image_type):
        raise Reject("secondary_capture")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric == "MONOCHROME1":
        # Standard CT writers never use it; whether such a writer inverted its values can't be told from the header.
        raise Reject("monochrome1")
    if photometric != "MONOCHROME2" or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise Reject("not_monochrome", photometric)
    stored = int(dataset.BitsStored)
    if int(dataset.BitsAllocated) not in (8, 16, 32) or int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise Reject("unsupported_bits")
    _check_rescale(dataset)


def _check_rescale(dataset: FileDataset) -> None:
    slope, intercept = _text(dataset, "RescaleSlope"), _text(dataset, "RescaleIntercept")
    if not slope or not intercept or _values(dataset, "ModalityLUTSequence"):
        raise Reject("missing_rescale")
    if not (math.isfinite(float(slope)) and math.isfinite(float(intercept)) and float(slope) != 0):
        raise Reject("bad_rescale", f"slope {slope}, intercept {intercept}")
    if _text(dataset, "RescaleType").upper() not in ("", "HU"):
        raise Reject("not_hu", _text(dataset, "RescaleType"))


def _values(dataset: FileDataset, name: str) -> list:
    value = dataset.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _header(dataset: FileDataset) -> Header:
    instance = _text(dataset, "InstanceNumber")
    return Header(
        sop_instance=_text(dataset, "SOPInstanceUID") or str(dataset.file_meta.get("MediaStorageSOPInstanceUID", "")),
        study=_text(dataset, "StudyInstanceUID"),
        series=_text(dataset, "SeriesInstanceUID"),
        patient=_text(dataset, "PatientID"),
        body_part=_text(dataset, "BodyPartExamined"),
        sex=_text(dataset, "PatientSex"),
        age=_text(dataset, "PatientAge"),
        manufacturer=_text(dataset, "Manufacturer"),
        position=slice_position(_values(dataset, "ImageOrientationPatient"), _values(dataset, "ImagePositionPatient")),
        instance=int(float(instance)) if instance else None,
    )


def slice_position(orientation: list, position: list) -> float | None:
    """Place of a slice along its normal in mm (PS3.3 C.7.6.2.1.1); None where the header lacks the plane.

    Args:
      orientation: direction cosines of the row and of the column, 6 numbers.
      position: of the first pixel, 3 numbers, mm.
    """
    if len(orientation) != 6 or len(position) != 3:
        return None
    cosines: Float[np.ndarray, 6] = np.asarray([float(v) for v in orientation])
    place = float(np.cross(cosines[:3], cosines[3:]) @ np.asarray([float(v) for v in position]))
    return place if math.isfinite(place) else None


def _stored_values(dataset: FileDataset) -> Int[np.ndarray, "h w"]:
    """Pixel values before the rescale: unused high bits cleared, signed where the header says so."""
    pixels = dataset.get("PixelData")
    if not pixels:
        raise Reject("no_pixel_data")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax is not None and not syntax.is_compressed and len(pixels) < rows * columns * dataset.BitsAllocated // 8:
        raise Reject("truncated", f"{len(pixels)} bytes for {rows} x {columns}")
    try:
        values = dataset.pixel_array  # pydicom clears the unused bits above BitsStored
    except Exception as error:  # each decoder plugin raises its own kinds
        raise Reject("undecodable", f"{type(error).__name__}: {error}") from error
    if values.shape != (rows, columns):
        raise Reject("undecodable", f"decoded to {values.shape}, header says {(rows, columns)}")
    return values
