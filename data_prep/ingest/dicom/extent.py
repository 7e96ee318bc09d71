"""Whether a file is long enough for the pixel data that its header describes, told without reading them.

A broken copy is so rejected in the header pass, where a whole copy of the same instance takes its place, and a number
of frames that the file can't hold costs nothing.

Standard: DICOM PS3.5 8.1.1 (length of native pixel data), A.4 (fragments).
"""

from __future__ import annotations

import struct

from pydicom.uid import DeflatedExplicitVRLittleEndian

from data_prep.ingest.dicom.plain import ITEM, UNDEFINED, Elements, PixelValue
from data_prep.ingest.dicom.tags import frame_count
from data_prep.spec import Reject

_ITEM_BYTES = struct.pack("<HH", ITEM >> 16, ITEM & 0xFFFF)
_DEFLATE = 1032  # deflated data are at least one byte for so many


def check_extent(dataset: Elements) -> None:
    """Raises Reject (no_pixel_data, truncated) for a file that can't hold its pixels; for compressed ones as far as the
    lengths of the first fragments tell.
    """
    value = dataset.pixel_value
    if value is None:
        raise Reject("no_pixel_data")
    frames, samples = frame_count(dataset), int(dataset.get("SamplesPerPixel") or 1)
    frame = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8
    there = value.size - value.place
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        short = frames * frame > _DEFLATE * value.size
    elif value.length == UNDEFINED or (value.start.startswith(_ITEM_BYTES) and value.length != frames * frame):
        short = 8 * frames > there or _fragments(value) > there  # each frame has at least the head of an item
    else:
        subsampled = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
        short = min(there, value.length) < (frame * 2 // 3 if subsampled else frame) * frames
    if short:
        raise Reject("truncated", f"{there} bytes for {frames} frame(s) of {frame}")


def _fragments(value: PixelValue) -> int:
    """Length of the fragments whose heads are at hand."""
    if value.length != UNDEFINED:
        return value.length
    place = 0
    while place + 8 <= len(value.start):
        group, element, length = struct.unpack_from("<HHI", value.start, place)
        if group << 16 | element != ITEM or length == UNDEFINED:
            return place
        place += 8 + length
    return place
