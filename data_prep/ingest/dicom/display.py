"""Images of any modality as a viewer shows them, in 8 bits: X-rays, ultrasound, photographs. Not for Hounsfield units.

Standard: DICOM PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT shape), C.7.6.3.1.2 (colour).
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
from jaxtyping import Float, Int, UInt8
import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from data_prep.ingest.dicom import Header, header, open_frames
from data_prep.ingest.dicom.extent import check_extent
from data_prep.ingest.dicom.pixels import decode, stored_words
from data_prep.ingest.dicom.plain import Elements
from data_prep.ingest.dicom.rules import DOSE_REPORTS, STRUCTURED_REPORT, check_bits, check_burned_in, sop_class
from data_prep.ingest.dicom.tags import BROKEN, frame_count, functional_group, quiet, read_header, text, values
from data_prep.spec import Reject

_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_INVERTED = {("MONOCHROME1", ""): True, ("MONOCHROME1", "INVERSE"): True}
_UPRIGHT = {("MONOCHROME2", ""): False, ("MONOCHROME2", "IDENTITY"): False}


def read_display_headers(path: Path, *, burned_in: bool = False) -> list[Header]:
    """Reads the header of one file of any modality; one Header for each frame.

    Raises:
      Reject: empty_file, unreadable, truncated, not_dicom, dose_report, structured_report, not_an_image,
        burned_in_annotation, unsupported_photometric, unsupported_bits, ambiguous_presentation, bad_header.
    """
    with quiet():
        dataset = read_header(path)
        try:
            _check(dataset, burned_in)
            check_extent(dataset)
            return [header(dataset, frame) for frame in range(frame_count(dataset))]
        except BROKEN as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error


def read_display(
    path: Path,
    channels: int,
    frame: int = 0,
    *,
    value_range: tuple[float, float] | None = None,
    burned_in: bool = False,
) -> UInt8[np.ndarray, "h w c"]:
    """Reads one image in 8 bits.

    Grey: modality transform, then the first VOI LUT or window of the header, MONOCHROME1 turned round (so that low is
    always black), padding black. Colour: RGB whatever the file keeps. Grey is repeated to three channels, colour is
    brought to one by its luminance.

    Args:
      path: the file.
      channels: 1 or 3.
      frame: number of the frame, from 0.
      value_range: values after the modality transform that become 0 and 255, in place of the header's window.
      burned_in: whether files with BurnedInAnnotation = YES are taken.

    Raises:
      Reject: as `read_display_headers`, and missing_window (more than 8 bits, no window, no value_range), bad_window,
        no_pixel_data, truncated, size_mismatch, undecodable, memory_limit.
    """
    with quiet():
        try:
            dataset = open_frames(path)
            _check(dataset, burned_in)
            if text(dataset, "PhotometricInterpretation") in _COLOUR:
                image = _colour(dataset, frame)
                return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
            grey = _grey(dataset, frame, value_range)[..., None]
            return grey if channels == 1 else np.repeat(grey, 3, axis=-1)
        except BROKEN as error:
            raise Reject("bad_header", f"{type(error).__name__}: {error}") from error


def _check(dataset: Elements, burned_in: bool) -> None:
    name = sop_class(dataset)
    if name in DOSE_REPORTS:
        raise Reject("dose_report")
    if name.startswith(STRUCTURED_REPORT):
        raise Reject("structured_report")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise Reject("not_an_image")
    check_burned_in(dataset, burned_in)
    photometric = text(dataset, "PhotometricInterpretation")
    if photometric in _COLOUR:
        samples = 1 if photometric == "PALETTE COLOR" else 3
        bits = int(dataset.BitsAllocated)
        if int(dataset.SamplesPerPixel) != samples or bits not in ((8, 16) if samples == 1 else (8,)):
            raise Reject("unsupported_bits", f"{photometric}, {bits} bits, {dataset.SamplesPerPixel} samples")
        return
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Reject("unsupported_photometric", photometric)
    check_bits(dataset)
    _inverted(dataset)


def _inverted(dataset: Elements) -> bool:
    key = (text(dataset, "PhotometricInterpretation"), text(dataset, "PresentationLUTShape").upper())
    if key not in _INVERTED | _UPRIGHT:
        raise Reject("ambiguous_presentation", " ".join(key))
    return key in _INVERTED


def _colour(dataset: FileDataset, frame: int) -> UInt8[np.ndarray, "h w 3"]:
    array = decode(dataset, frame, raw=False)
    if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)[..., :3]
        array = (array >> 8).astype(np.uint8) if array.dtype.itemsize > 1 else array
    if array.shape != (dataset.Rows, dataset.Columns, 3) or array.dtype != np.uint8:
        raise Reject("undecodable", f"decoded to {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def _grey(dataset: FileDataset, frame: int, value_range: tuple[float, float] | None) -> UInt8[np.ndarray, "h w"]:
    words, described = stored_words(dataset, frame)
    stored = described.values(words)
    scaled = _modality(dataset, frame, stored)
    window = functional_group(dataset, frame, "FrameVOILUTSequence") or dataset
    if value_range is not None:
        shown = (scaled - value_range[0]) / (value_range[1] - value_range[0])
    elif values(window, "VOILUTSequence"):
        bits = int(values(window, "VOILUTSequence")[0].LUTDescriptor[2])
        shown = apply_voi(np.rint(scaled).astype(np.int64), window, index=0) / (2.0**bits - 1)
    elif values(window, "WindowCenter") and values(window, "WindowWidth"):
        shown = apply_window(
            scaled,
            float(values(window, "WindowCenter")[0]),
            float(values(window, "WindowWidth")[0]),
            text(window, "VOILUTFunction").upper() or "LINEAR",
        )
    elif described.stored <= 8 and not described.signed and scaled is stored:
        shown = stored / (2.0**described.stored - 1)
    else:
        raise Reject("missing_window")
    shown = np.clip(shown, 0.0, 1.0)
    if _inverted(dataset):
        shown = 1.0 - shown
    shown[described.is_padding(words)] = 0.0
    return np.rint(shown * 255).astype(np.uint8)


def _modality(dataset: FileDataset, frame: int, stored: Int[np.ndarray, "h w"]) -> np.ndarray:
    """Values after the modality transform; the stored ones themselves where the header has none (identity)."""
    group: Dataset = functional_group(dataset, frame, "PixelValueTransformationSequence") or dataset
    if values(group, "ModalityLUTSequence"):
        return apply_modality_lut(stored, group)
    slope, intercept = text(group, "RescaleSlope"), text(group, "RescaleIntercept")
    if not slope and not intercept:
        return stored
    factor, offset = float(slope or "nan"), float(intercept or "nan")
    if not (math.isfinite(factor) and math.isfinite(offset)) or factor == 0:
        raise Reject("bad_rescale", f"slope {slope}, intercept {intercept}")
    return stored * factor + offset


def apply_window(image: np.ndarray, centre: float, width: float, function: str) -> Float[np.ndarray, "h w"]:
    """Values of a VOI window in [0, 1] before clipping (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if not math.isfinite(centre) or not width >= (1 if function == "LINEAR" else 1e-9):
        raise Reject("bad_window", f"centre {centre}, width {width}")
    if function == "LINEAR":
        if width == 1:
            return (image > centre - 0.5).astype(np.float64)
        return (image - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (image - centre) / width + 0.5
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (image - centre) / width))
    raise Reject("bad_window", f"function {function}")
