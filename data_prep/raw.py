"""What the bytes of a raw file say without decoding it: their hash, and the size of a PNG, JPEG, TIFF, GIF or npy."""

from __future__ import annotations

import hashlib
from pathlib import Path
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from data_prep.ingest.files import Version, at_hand
from data_prep.spec import Reject

_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # JPEG markers among the SOFn that are none: DHT, JPG, DAC


class RawFile(NamedTuple):
    """Attributes: sha256 of the content, hexadecimal; size, rows and columns upright as decoders give them, or None."""

    sha256: str
    size: tuple[int, int] | None


_last: tuple[Version, RawFile] | None = None


def look(path: Path) -> RawFile:
    """Reads a file once; of the last file the answer is kept, since frames and slices of one file come in turn.

    Raises:
      Reject: unreadable.
    """
    global _last
    try:
        version = Version.of(path)
        if _last is None or _last[0] != version:
            if not path.is_file():
                raise Reject("unreadable", "not a regular file")  # opening a pipe would wait for ever
            content = at_hand(version)
            with path.open("rb") as file:
                digest = hashlib.sha256(content) if content is not None else hashlib.file_digest(file, "sha256")
                file.seek(0)
                _last = version, RawFile(digest.hexdigest(), image_size(file))
    except OSError as error:
        raise Reject("unreadable", str(error)) from error
    return _last[1]


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Rows and columns of an image by the first bytes of its file; None where it is of another kind, or broken."""
    start = file.read(32)
    try:
        if start[:8] == b"\x89PNG\r\n\x1a\n":
            columns, rows = struct.unpack_from(">2I", start, 16)
            return rows, columns
        if start[:6] in (b"GIF87a", b"GIF89a"):
            columns, rows = struct.unpack_from("<2H", start, 6)
            return rows, columns
        if start[:6] == b"\x93NUMPY":
            return _npy_size(file)
        if start[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(file)
        if start[:2] == b"\xff\xd8":
            return _jpeg_size(file)
    except (struct.error, ValueError, KeyError, OSError):
        return None
    return None


def _npy_size(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(0)
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version](file)
    shape = header[0]
    return (int(shape[0]), int(shape[1])) if len(shape) in (2, 3) else None


def _tiff_tags(data: BinaryIO, start: int) -> dict[int, int]:
    """The first directory of a TIFF that begins at `start`: {tag: value} of its single short and long numbers."""
    data.seek(start)
    order = {b"II": "<", b"MM": ">"}[data.read(2)]
    _, place = struct.unpack(order + "HI", data.read(6))
    data.seek(start + place)
    (entries,) = struct.unpack(order + "H", data.read(2))
    tags = {}
    for _ in range(min(entries, 1024)):
        entry = data.read(12)
        tag, kind, count = struct.unpack_from(order + "HHI", entry)
        if count == 1 and kind in (3, 4):
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), entry, 8)
    return tags


def _tiff_size(file: BinaryIO) -> tuple[int, int]:
    tags = _tiff_tags(file, 0)
    rows, columns = tags[257], tags[256]
    return (columns, rows) if tags.get(274) in _TURNED else (rows, columns)


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Walks the segments (ISO 10918-1 annex B) to the frame header; turned where the EXIF segment says so."""
    file.seek(2)
    turned = False
    while True:
        byte, marker = struct.unpack("2B", file.read(2))
        if byte != 0xFF or marker == 0xDA:
            return None
        if marker in (0xFF, 0x01, *range(0xD0, 0xD8)):  # fill bytes and markers without a length
            file.seek(-1 if marker == 0xFF else 0, 1)
            continue
        (length,) = struct.unpack(">H", file.read(2))
        place = file.tell()
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            _, rows, columns = struct.unpack(">BHH", file.read(5))
            return (columns, rows) if turned else (rows, columns)
        if marker == 0xE1 and file.read(6) == b"Exif\0\0":
            turned = _tiff_tags(file, place + 6).get(274) in _TURNED
        file.seek(place + length - 2)
