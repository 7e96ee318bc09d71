"""Which codec made a frame, by its own bytes, since headers of old archives name the wrong one.

Formats: ISO 10918-1 annex B (JPEG), ISO 14495-1 annex C (JPEG-LS), ISO 15444-1 annex A (JPEG 2000), ISO 15444-15
(HTJ2K), DICOM PS3.5 annex A.4 (encapsulation) and G.5 (RLE).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data_prep.ingest.dicom.plain import Elements, Plain
from data_prep.ingest.dicom.tags import frame_count
from data_prep.spec import Reject

_BY_FRAME_HEADER = {  # JPEG's SOF markers, and JPEG-LS's
    0xC0: JPEGBaseline8Bit, 0xC1: JPEGExtended12Bit, 0xC3: JPEGLosslessSV1, 0xF7: JPEGLSLossless,
}  # fmt: skip
_NO_LENGTH = frozenset({0xD8, 0x01, *range(0xD0, 0xD8)})
_HTJ2K = (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_ITEM = b"\xfe\xff\x00\xe0"
# The fastest decoder of each family; measured on 512x512 CT: JPEG-LS 3.8 ms (pylibjpeg 14.6), RLE 0.4 ms (pydicom 4.4).
_FASTEST = {JPEGLSLossless: "pyjpegls", RLELossless: "pylibjpeg"}


class Codestream(NamedTuple):
    """What a frame's own bytes say: its codec, height and width."""

    syntax: UID
    rows: int
    columns: int


def inspect(data: bytes) -> Codestream | None:
    """Codec and size of a compressed frame; None for bytes that no JPEG family begins with (RLE has no signature)."""
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) > 24:
        right, bottom, left, top = struct.unpack(">4I", data[8:24])
        (length,) = struct.unpack(">H", data[4:6])
        high_throughput = data[4 + length : 6 + length] == b"\xff\x50"  # a CAP segment follows SIZ
        return Codestream(HTJ2KLossless if high_throughput else JPEG2000Lossless, bottom - top, right - left)
    if data[:2] == b"\xff\xd8":
        return _inspect_jpeg(data)
    return None


def _inspect_jpeg(data: bytes) -> Codestream | None:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _NO_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _BY_FRAME_HEADER:
            rows, columns = struct.unpack(">2H", data[place + 5 : place + 9])
            return Codestream(_BY_FRAME_HEADER[marker], rows, columns)
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        place += 2 + length
    return None


def pixel_bytes(dataset: Elements) -> tuple[bytes, bool]:
    """The value of PixelData, empty where there is none, and whether its length is undefined."""
    if isinstance(dataset, Plain):
        return bytes(dataset.pixels), dataset.encapsulated
    if not dataset.get("PixelData"):
        return b"", False
    element = dataset["PixelData"]
    return element.value, element.is_undefined_length


def choose(dataset: Elements, frame: int) -> tuple[UID, str]:
    """Transfer syntax to decode a frame with and the decoder plugin to ask for ("" = any).

    The bytes decide, where they are clear: a codestream of another family than the header names, compressed data under
    an uncompressed syntax and the reverse are all decoded as what they are.

    Raises:
      Reject: truncated (the codestream has no end), size_mismatch (it is not Rows x Columns), undecodable.
    """
    declared = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ExplicitVRLittleEndian))
    value, undefined = pixel_bytes(dataset)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    whole = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8 * frame_count(dataset)
    if value[:4] != _ITEM or (not undefined and len(value) == whole):
        return (ExplicitVRLittleEndian if declared.is_encapsulated else declared), ""
    try:
        data = get_frame(value, frame, number_of_frames=frame_count(dataset))
    except Exception as error:  # broken offsets raise many kinds
        raise Reject("undecodable", f"{type(error).__name__}: {error}") from error
    found = inspect(data)
    if found is None:
        syntax = declared if declared.is_encapsulated else RLELossless
        return syntax, _FASTEST.get(syntax, "")
    if (found.rows, found.columns) != (dataset.Rows, dataset.Columns):
        raise Reject("size_mismatch", f"codestream {found.rows} x {found.columns}")
    if b"\xff\xd9" not in data.rstrip(b"\0")[-4:]:
        raise Reject("truncated", "the codestream has no end marker")
    same = declared in _HTJ2K if found.syntax == HTJ2KLossless else False
    syntax = declared if same else found.syntax
    return syntax, _FASTEST.get(syntax, "")
