"""A short way through plain files: one uncompressed or encapsulated frame, little endian, nothing odd in the header.

pydicom reads everything and is the reference; the plan needs a few elements of the header, and finding those in most
files of an archive takes a tenth of the time. Whatever is not plain (sequences that are needed, text that is not ASCII,
several values where one belongs, an unknown VR, an end too early) is left to pydicom: `read_plain` returns None, it
never judges.

Standard: DICOM PS3.5 7.1 (data elements), 7.5 (sequences), PS3.10 7.1 (file meta information).
"""

from __future__ import annotations

import os
from pathlib import Path
import stat
import struct
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.ingest.files import read_once

HEADER_TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "PatientSex", "PatientAge", "BodyPartExamined", "Manufacturer", "Modality", "ConversionType", "ImageType",
    "BurnedInAnnotation", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PresentationLUTShape", "PixelSpacing",
    "SliceThickness",
]  # fmt: skip
_META_TAGS = ["MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"]
_PIXEL_TAGS = ["PixelPaddingValue", "PixelPaddingRangeLimit"]


class _Element(NamedTuple):
    """What the standard says of an element: its VR (US for US or SS), and how many values it has (0 = any number)."""

    keyword: str
    vr: bytes
    multiplicity: int


def _element(keyword: str) -> _Element:
    count = dictionary_VM(keyword)
    return _Element(keyword, dictionary_VR(keyword)[:2].encode(), int(count) if count.isdigit() else 0)


_ELEMENTS = {tag_for_keyword(k): _element(k) for k in (*_META_TAGS, *HEADER_TAGS, *_PIXEL_TAGS)}
PIXELS = 0x7FE00010
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")  # the JPEG families, RLE
ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US")
)  # fmt: skip
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from
_FIRST_READ = 1 << 15  # bytes; holds nearly every header
START = 64  # bytes; the heads of the first fragments of compressed pixel data


class PixelValue(NamedTuple):
    """Where the value of PixelData lies, unread: its place in the file and its length as the file says it, its first
    START bytes, and the size of the file.
    """

    place: int
    length: int
    start: bytes
    size: int


class Plain(dict[str, Any]):
    """Elements of a plain file by keyword, read as pydicom's Dataset is: `get`, attributes, `file_meta`.

    Attributes:
      file_meta: the elements of the file meta information.
      pixels: the bytes of PixelData, fragments and all; empty where they were not asked for.
      encapsulated: whether its length is undefined.
      pixel_value: where they lie.
    """

    def __init__(
        self,
        elements: dict[str, Any],
        meta: dict[str, Any],
        pixels: memoryview,
        encapsulated: bool,
        pixel_value: PixelValue | None = None,
    ):
        super().__init__(elements)
        self.pixel_value = pixel_value
        self.file_meta = meta
        self.pixels = pixels
        self.encapsulated = encapsulated

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Elements = FileDataset | Plain


class _NotPlain(Exception):  # noqa: N818 (no error: pydicom takes over)
    pass


def read_plain(path: Path, *, pixels: bool) -> Plain | None:
    """Reads the elements that `HEADER_TAGS` names, and with `pixels` the padding and the pixel data.

    Returns None for a file that is not plain, among them all that can't be read or are broken.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        size = status.st_size
        if pixels:
            return _parse(read_once(path), size, pixels)
        with open(path, "rb", buffering=0) as file:
            have = min(size, _FIRST_READ)
            while True:
                file.seek(0)
                data = file.read(have)
                try:
                    return _parse(data, size, pixels)
                except struct.error:  # the header goes on
                    if len(data) != have or have == size:
                        return None
                have = min(size, 8 * have)
    except (OSError, KeyError, RecursionError, struct.error, _NotPlain):
        return None


def _parse(data: bytes | memoryview, size: int, pixels: bool) -> Plain:
    if data[128:132] != b"DICM":
        raise _NotPlain
    meta: dict[str, Any] = {}
    place, _ = _elements(data, 132, True, 0x00030000, meta)
    syntax = meta.get("TransferSyntaxUID")
    native = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if not native and not str(syntax).startswith(_ENCAPSULATED):
        raise _NotPlain
    found: dict[str, Any] = {}
    place, length = _elements(data, place, syntax != ImplicitVRLittleEndian, PIXELS, found)
    if found.get("NumberOfFrames", "1") not in ("", "0", "1"):
        raise _NotPlain
    if not pixels:
        value_at = PixelValue(place, length, bytes(data[place : place + START]), size)
        return Plain(found, meta, memoryview(b""), length == UNDEFINED, value_at)
    bits, signed = found["BitsAllocated"], found["PixelRepresentation"]
    whole = found["Rows"] * found["Columns"] * bits // 8
    if not whole or bits not in (8, 16) or signed > 1 or found["SamplesPerPixel"] != 1:
        raise _NotPlain
    if not native and length == UNDEFINED:
        end = _after_sequence(data, place, True) - 8
        return Plain(found, meta, memoryview(data)[place:end], True)
    value = memoryview(data)[place : place + length]
    compressed = value[:4] == b"\xfe\xff\x00\xe0" and length != whole  # whatever the syntax says
    if not native or compressed or len(value) != length or length not in (whole, whole + whole % 2):
        raise _NotPlain
    return Plain(found, meta, value, False)


def _elements(
    data: bytes | memoryview, place: int, explicit: bool, stop: int, found: dict[str, Any]
) -> tuple[int, int]:
    """Reads elements below tag `stop`. Returns the place of the first of the others, or, if that is the pixel data, the
    place and length of its value.
    """
    while True:
        group, element, vr, length = _EXPLICIT(data, place)
        tag = group << 16 | element
        if tag >= stop and stop != PIXELS:
            return place, 0
        vr, length, place = _value_at(data, place, explicit, vr, length)
        if tag >= stop:
            if tag != PIXELS:
                raise _NotPlain
            return place, length
        known = _ELEMENTS.get(tag)
        if length == UNDEFINED:
            if known or vr not in (b"SQ", b""):
                raise _NotPlain
            place = _after_sequence(data, place, explicit)
            continue
        if known:
            if place + length > len(data):
                raise struct.error
            found[known.keyword] = _value(known, vr, bytes(data[place : place + length]))
        place += length


def _value_at(data: bytes | memoryview, place: int, explicit: bool, vr: bytes, length: int) -> tuple[bytes, int, int]:
    """VR, length and place of an element's value; `vr` and `length` stand where an explicit short one has them."""
    if not explicit:
        return b"", _LENGTH(data, place + 4)[0], place + 8
    if vr in _SHORT:
        return vr, length, place + 8
    if vr in _LONG:
        return vr, _LENGTH(data, place + 8)[0], place + 12
    raise _NotPlain


def _after_sequence(data: bytes | memoryview, place: int, explicit: bool) -> int:
    """The place after a sequence of undefined length whose items begin at `place`."""
    while True:
        group, element, length = _IMPLICIT(data, place)  # items have no VR in either encoding
        place += 8
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return place
        if tag != ITEM:
            raise _NotPlain
        place = _after_item(data, place, explicit) if length == UNDEFINED else place + length


def _after_item(data: bytes | memoryview, place: int, explicit: bool) -> int:
    while True:
        group, element, vr, length = _EXPLICIT(data, place)
        if group << 16 | element == _ITEM_END:
            return place + 8
        vr, length, place = _value_at(data, place, explicit, vr, length)
        if length == UNDEFINED and vr not in (b"SQ", b""):
            raise _NotPlain
        place = _after_sequence(data, place, explicit) if length == UNDEFINED else place + length


def _value(element: _Element, vr: bytes, raw: bytes) -> Any:
    """The value of an element, text for numbers in text too; raises _NotPlain where pydicom might see another."""
    if element.vr == b"US":
        if len(raw) != 2 or vr not in ((b"US", b"SS", b"") if element.keyword in _PIXEL_TAGS else (b"US", b"")):
            raise _NotPlain
        return int.from_bytes(raw, "little", signed=vr == b"SS")
    if vr not in (element.vr, b"") or element.vr == b"SQ" or not raw.isascii() or b"\x1b" in raw:  # \x1b: ISO 2022
        raise _NotPlain
    text = raw.decode().strip(" \0")
    parts = text.split("\\") if text else []
    if element.vr in (b"DS", b"IS"):
        try:
            numbers = [int(part) if element.vr == b"IS" else float(part) for part in parts]
        except ValueError:
            raise _NotPlain from None
        if text.strip("0123456789+-.eE\\ "):  # Python reads more as a number than DICOM does
            raise _NotPlain
        if element.multiplicity > 1 and len(parts) == element.multiplicity:
            return numbers
    if parts and len(parts) != (element.multiplicity or len(parts)):
        raise _NotPlain
    return parts if element.multiplicity == 0 and parts else text
