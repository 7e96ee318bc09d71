"""Which files are CT slices in Hounsfield units, by rules on their header; the rest has a reason code.

Standard: DICOM PS3.3 C.8.2.1 (CT Image), C.8.15 (Enhanced CT), C.11.1 (Modality LUT), C.8.6.1 (SC Equipment).
"""

from __future__ import annotations

import math

from pydicom.dataset import Dataset

from data_prep.ingest.dicom.plain import Elements
from data_prep.ingest.dicom.tags import frame_count, functional_group, text, values
from data_prep.spec import Reject

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # enhanced, legacy converted enhanced
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88."
DOSE_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.73")  # X-ray, patient radiation dose
_LOCALIZER = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM")
_CAPTURE = ("SCREENSAVE", "SCREENSHOT", "SCREENCAPTURE")


def sop_class(dataset: Elements) -> str:
    return text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def check_ct(dataset: Elements, *, burned_in: bool) -> None:
    """Raises Reject unless every frame of the file is a CT slice whose header gives its Hounsfield units."""
    _check_class(dataset)
    check_burned_in(dataset, burned_in)
    # The photometric interpretation, the window, the VOI LUT and the presentation LUT shape say how values are shown
    # (MONOCHROME1: low is white); Hounsfield units come from the stored values before all of them.
    if not text(dataset, "PhotometricInterpretation"):
        raise Reject("bad_header", "no photometric interpretation")
    if text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise Reject("not_monochrome", text(dataset, "PhotometricInterpretation"))
    check_bits(dataset)
    enhanced = sop_class(dataset) in ENHANCED_CT
    frames = frame_count(dataset)
    if enhanced and len(values(dataset, "PerFrameFunctionalGroupsSequence")) != frames:
        raise Reject("bad_frame_groups", f"{frames} frames")
    for frame in range(frames if enhanced else 1):
        hu_transform(dataset, frame)
        frame_type = functional_group(dataset, frame, "CTImageFrameTypeSequence") if enhanced else None
        if frame_type is not None:
            _check_image_type(values(frame_type, "FrameType"))


def _check_class(dataset: Elements) -> None:
    name = sop_class(dataset)
    if name in DOSE_REPORTS:
        raise Reject("dose_report")
    if name.startswith(STRUCTURED_REPORT):
        raise Reject("structured_report")
    if name.startswith(SECONDARY_CAPTURE):
        raise Reject("secondary_capture")
    if name != CT_IMAGE and name not in ENHANCED_CT:
        raise Reject("not_ct", f"SOP class {name or 'missing'}")
    if text(dataset, "Modality").upper() not in ("", "CT"):
        raise Reject("not_ct", f"modality {text(dataset, 'Modality')}")
    _check_image_type(values(dataset, "ImageType"))
    if text(dataset, "ConversionType"):  # only captures and digitised films have it
        raise Reject("secondary_capture")


def _check_image_type(image_type: list[object]) -> None:
    words = [str(v).upper().replace(" ", "").replace("_", "") for v in image_type]
    for names, reason in ((_LOCALIZER, "localizer"), (("DOSE",), "dose_report"), (_CAPTURE, "secondary_capture")):
        if any(name in word for word in words for name in names):
            raise Reject(reason)


def check_burned_in(dataset: Elements, allowed: bool) -> None:
    """BurnedInAnnotation = YES means that names can stand in the pixels."""
    if text(dataset, "BurnedInAnnotation").upper() == "YES" and not allowed:
        raise Reject("burned_in_annotation")


def check_bits(dataset: Elements) -> None:
    """Raises Reject unless the stored bits are ones that `pixels.Layout` can take apart."""
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise Reject("not_monochrome")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise Reject("unsupported_bits", f"allocated {allocated}, stored {stored}, high bit {high}")
    if int(dataset.get("PixelRepresentation") or 0) not in (0, 1):
        raise Reject("unsupported_bits", "pixel representation")
    if int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise Reject("bad_header", "no rows or columns")


def hu_transform(dataset: Elements, frame: int) -> tuple[float, float] | None:
    """Slope and intercept from stored values to Hounsfield units for one frame, or None for a modality LUT in HU.

    An enhanced image keeps them in its functional groups; another has them, or the LUT, in the header.

    Raises:
      Reject: missing_rescale, bad_rescale, ambiguous_rescale (a LUT and a rescale), not_hu.
    """
    group: Dataset | Elements | None = dataset
    if sop_class(dataset) in ENHANCED_CT:
        group = functional_group(dataset, frame, "PixelValueTransformationSequence")
        if group is None:
            raise Reject("missing_rescale")
    assert group is not None
    slope, intercept = text(group, "RescaleSlope"), text(group, "RescaleIntercept")
    tables = values(group, "ModalityLUTSequence")
    if tables:
        if slope or intercept:
            raise Reject("ambiguous_rescale")
        if text(tables[0], "ModalityLUTType").upper() != "HU":
            raise Reject("not_hu", text(tables[0], "ModalityLUTType"))
        return None
    if not slope or not intercept:
        raise Reject("missing_rescale")
    if not (math.isfinite(float(slope)) and math.isfinite(float(intercept)) and float(slope) != 0):
        raise Reject("bad_rescale", f"slope {slope}, intercept {intercept}")
    if text(group, "RescaleType").upper() not in ("", "HU"):
        raise Reject("not_hu", text(group, "RescaleType"))
    return float(slope), float(intercept)
