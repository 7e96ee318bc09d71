"""Compressed pixel data: every codec gives the stored values back, and what a header says of its codec may be wrong."""

import base64
from pathlib import Path
import struct

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
import pytest

from data_prep.ingest.dicom import read_headers, read_hu
from data_prep.spec import Reject
from tests.data_prep.dicom_files import write_dicom
from tests.data_prep.test_dicom import WIDE, reason_of

# 8x8 values of `_ramp`, made with OpenJPH: there is no free encoder for HTJ2K in Python
HTJ2K_RAMP = base64.b64decode(
    "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHcAAf+TwAAmG/gFB3QAAADAABLAABLAABGA3ACHdAD7AAd0AABjAMAAE8AAE8AAEoCA"
    "EPYAArQAwBD9AAGUAMzyE5MAwAArIAAVcAAKkEaJEZlx+gHJ3i3mAIRO5tkBI7ryf7cAyG75QCvuxFYA/9k="
)  # fmt: skip


def _ramp():
    y, x = np.mgrid[:8, :8]
    return (1000 + 10 * x - 7 * y + (x * y) % 5).astype(np.uint16)


def jpeg_lossless(pixels: np.ndarray, precision: int = 12) -> bytes:
    """JPEG lossless with the predictor of the left neighbour (ISO 10918-1 annex H); every Huffman code has 5 bits."""
    bits = []
    values = pixels.tolist()
    for i in range(len(values)):
        for j in range(len(values[0])):
            left = values[i][j - 1] if j else values[i - 1][0] if i else 1 << (precision - 1)
            difference = values[i][j] - left
            size = abs(difference).bit_length()
            bits.append(f"{size:05b}")
            if size:
                bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8)).replace(b"\xff", b"\xff\x00")
    rows, columns = pixels.shape
    frame = struct.pack(">BHHBBBB", precision, rows, columns, 1, 1, 0x11, 0)
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    scan = bytes([1, 1, 0, 1, 0, 0])
    segments = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in ((0xC3, frame), (0xC4, table), (0xDA, scan))
    )
    return b"\xff\xd8" + segments + data + b"\xff\xd9"


def _encapsulated(path: Path, frames: list[bytes], syntax, pixels=None, **fields):
    """A file whose pixel data is `frames` under the name of `syntax`."""
    write_dicom(path, _ramp() if pixels is None else pixels, **fields)
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)
    return path


def _compressed(path: Path, pixels: np.ndarray, syntax, **fields):
    data = pydicom.dcmread(write_dicom(path, pixels, **fields))
    data.compress(syntax)
    data.save_as(path)
    return path


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_codecs(tmp_path, syntax, signed):
    rng = np.random.default_rng(0)
    pixels = rng.integers(-2000, 2000, (40, 33)).astype(np.int16) if signed else rng.integers(0, 4096, (40, 33))
    fields = {"BitsStored": 16, "HighBit": 15} if signed else {}
    path = _compressed(tmp_path / "a", pixels if signed else pixels.astype(np.uint16), syntax, **fields)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_hu(path, WIDE), pixels - 1024)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_jpeg_lossless(tmp_path, syntax):
    pixels = np.random.default_rng(0).integers(0, 4096, (9, 13)).astype(np.uint16)
    path = _encapsulated(tmp_path / "a", [jpeg_lossless(pixels)], syntax, pixels)
    np.testing.assert_array_equal(read_hu(path, WIDE), pixels.astype(int) - 1024)


def test_htj2k(tmp_path):
    path = _encapsulated(tmp_path / "a", [HTJ2K_RAMP], HTJ2KLossless, BitsStored=16, HighBit=15)
    np.testing.assert_array_equal(read_hu(path, WIDE), _ramp().astype(int) - 1024)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_deflated_and_big_endian(tmp_path, syntax):
    data = pydicom.dcmread(write_dicom(tmp_path / "a", _ramp()))
    big = syntax == ExplicitVRBigEndian
    if big:
        data.PixelData = _ramp().astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    bare = pydicom.Dataset(data)
    bare.file_meta = data.file_meta
    bare.save_as(tmp_path / "b", implicit_vr=False, little_endian=not big, enforce_file_format=True)
    assert read_headers(tmp_path / "b")[0].patient == "P1"
    np.testing.assert_array_equal(read_hu(tmp_path / "b", WIDE), _ramp().astype(int) - 1024)


def test_left_justified_values_under_rle(tmp_path):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 17
    path = _compressed(tmp_path / "a", pixels << 4, RLELossless, HighBit=15, BitsStored=12)
    np.testing.assert_array_equal(read_hu(path, WIDE), pixels.astype(int) - 1024)


def _frame(path):
    data = pydicom.dcmread(path)
    return get_frame(data.PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("says", [JPEGLosslessSV1, JPEGBaseline8Bit, JPEG2000Lossless, HTJ2KLossless, RLELossless])
@pytest.mark.parametrize("really", ["jpeg", "jpeg_ls", "jpeg_2000", "htj2k"])
def test_a_header_that_names_the_wrong_codec(tmp_path, says, really):
    bits = {"BitsStored": 16, "HighBit": 15}
    pixels = _ramp() if really == "htj2k" else np.tile(_ramp(), (4, 5))  # OpenJPEG wants at least 32
    frame = {
        "jpeg": lambda: jpeg_lossless(pixels, 16),
        "jpeg_ls": lambda: _frame(_compressed(tmp_path / "f", pixels, JPEGLSLossless, **bits)),
        "jpeg_2000": lambda: _frame(_compressed(tmp_path / "f", pixels, JPEG2000Lossless, **bits)),
        "htj2k": lambda: HTJ2K_RAMP,
    }[really]()
    path = _encapsulated(tmp_path / "a", [frame], says, pixels, **bits)
    np.testing.assert_array_equal(read_hu(path, WIDE), pixels.astype(int) - 1024)


def test_compressed_data_under_an_uncompressed_name_and_the_reverse(tmp_path):
    path = _encapsulated(tmp_path / "a", [jpeg_lossless(_ramp())], ExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_hu(path, WIDE), _ramp().astype(int) - 1024)
    path = write_dicom(tmp_path / "b", _ramp())
    raw, old, new = path.read_bytes(), ExplicitVRLittleEndian.encode() + b"\0", JPEG2000Lossless.encode()
    place = raw.index(b"\x02\x00\x10\x00UI") + 6  # the length of TransferSyntaxUID; that of its group grows as well
    grown = raw[:place] + struct.pack("<H", len(new)) + raw[place + 2 :].replace(old, new, 1)
    (length,) = struct.unpack("<I", raw[140:144])
    path.write_bytes(grown[:140] + struct.pack("<I", length + len(new) - len(old)) + grown[144:])
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEG2000Lossless
    np.testing.assert_array_equal(read_hu(path, WIDE), _ramp().astype(int) - 1024)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("cut", [10, 700])
def test_a_file_that_breaks_off(tmp_path, syntax, cut):
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype(np.uint16)
    path = write_dicom(tmp_path / "a", pixels) if syntax is None else _compressed(tmp_path / "a", pixels, syntax)
    path.write_bytes(path.read_bytes()[:-cut])
    assert reason_of(read_hu, path, WIDE) == "truncated"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_without_its_end_is_not_half_decoded(tmp_path, syntax):
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype(np.uint16)
    frame = _frame(_compressed(tmp_path / "f", pixels, syntax))
    path = _encapsulated(tmp_path / "a", [frame[: len(frame) // 2]], syntax, pixels)
    assert reason_of(read_hu, path, WIDE) == "truncated"
    path = _encapsulated(tmp_path / "b", [jpeg_lossless(pixels)[:-300]], JPEGLosslessSV1, pixels)
    assert reason_of(read_hu, path, WIDE) == "truncated"


def test_a_codestream_of_another_size_is_not_believed(tmp_path):
    path = _encapsulated(tmp_path / "a", [jpeg_lossless(np.zeros((64, 64), np.uint16))], JPEGLosslessSV1)
    assert reason_of(read_hu, path, WIDE) == "size_mismatch"


def test_a_header_that_asks_for_too_much_memory(tmp_path):
    path = _encapsulated(tmp_path / "a", [jpeg_lossless(_ramp())], JPEGLosslessSV1, Rows=65535, Columns=65535)
    assert reason_of(read_hu, path, WIDE) == "memory_limit"


def test_frames_that_are_missing(tmp_path):
    path = _encapsulated(tmp_path / "a", [jpeg_lossless(_ramp())] * 2, JPEGLosslessSV1, NumberOfFrames="3")
    np.testing.assert_array_equal(read_hu(path, WIDE, 1), _ramp().astype(int) - 1024)
    with pytest.raises(Reject):
        read_hu(path, WIDE, 2)
