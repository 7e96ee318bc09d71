"""The short way through plain files gives what pydicom gives, file by file and flipped byte by flipped byte."""

from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)  # fmt: skip
import pytest

from data_prep.ingest import dicom
from data_prep.ingest.dicom import plain, read_headers, read_hu, tags
from data_prep.spec import Reject
from tests.data_prep.dicom_files import write_dicom, write_enhanced

HU = (-1024.0, 3071.0)
PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"


def _outcome(function, *arguments):
    try:
        return function(*arguments)
    except Reject as reject:
        return reject.reason


def _both_ways(path, monkeypatch):
    """(headers, pixels) by the short way where it is taken, and by pydicom alone."""
    outcomes = []
    for short in (True, False):
        with monkeypatch.context() as patch:
            if not short:
                for module in (tags, dicom):
                    patch.setattr(module, "read_plain", lambda path, *, pixels: None)
            outcomes.append((_outcome(read_headers, path), _outcome(read_hu, path, HU)))
    return outcomes


def _same(path, monkeypatch):
    (headers, pixels), (expected_headers, expected_pixels) = _both_ways(path, monkeypatch)
    assert headers == expected_headers
    np.testing.assert_array_equal(pixels, expected_pixels)


def _file(path, **fields):
    pixels = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 7
    return write_dicom(path, pixels, **fields)


@pytest.mark.filterwarnings("ignore")
def test_files_of_pydicom(monkeypatch):
    taken = 0
    for path in sorted(PYDICOM_FILES.rglob("*.dcm")):
        if path.stat().st_size > 400_000:  # slow, and no different
            continue
        _same(path, monkeypatch)
        taken += plain.read_plain(path, pixels=True) is not None
    assert taken >= 15


@pytest.mark.filterwarnings("ignore")  # of pydicom, on values that the standard does not allow
@pytest.mark.parametrize(
    ("fields", "is_plain"),
    [
        ({}, True),
        ({"syntax": ImplicitVRLittleEndian}, True),
        ({"syntax": DeflatedExplicitVRLittleEndian}, False),
        ({"PatientID": "Müller", "SpecificCharacterSet": "ISO_IR 100"}, False),
        ({"PatientID": "a\\b"}, False),
        ({"PatientID": " a "}, True),
        ({"PatientID": ""}, True),
        ({"NumberOfFrames": "0"}, True),
        ({"NumberOfFrames": "1"}, True),
        ({"InstanceNumber": "+7"}, True),
        ({"RescaleSlope": "0.5", "RescaleIntercept": "-12.25"}, True),
        ({"RescaleSlope": "-1e0"}, True),
        ({"RescaleSlope": ["1", "2"]}, False),
        ({"remove": ("RescaleSlope",)}, True),
        ({"remove": ("BitsStored",)}, True),
        ({"remove": ("SOPInstanceUID",)}, True),
        ({"remove": ("ImagePositionPatient",)}, True),
        ({"ImagePositionPatient": ["0.25", "-1e1", "3"]}, True),
        ({"BitsStored": 12, "HighBit": 15}, True),
        ({"PixelRepresentation": 1}, True),
        ({"padding": b"\x30\xf8"}, True),
        ({"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 63540}, True),
        ({"PatientName": "x" * 100_000}, True),  # longer than what is read at first
    ],
)
def test_headers_of_many_kinds(tmp_path, monkeypatch, fields, is_plain):
    path = _file(tmp_path / "a", **fields)
    _same(path, monkeypatch)
    assert (plain.read_plain(path, pixels=True) is not None) == is_plain


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_sequences_are_passed_over_and_their_elements_are_not_the_image_s(tmp_path, monkeypatch, undefined, syntax):
    inner, outer = pydicom.Dataset(), pydicom.Dataset()
    inner.PatientID, inner.Rows = "another", 3
    outer.RequestAttributesSequence = [inner, inner]
    outer.is_undefined_length_sequence_item = undefined
    inner.is_undefined_length_sequence_item = undefined
    outer["RequestAttributesSequence"].is_undefined_length = undefined
    path = _file(
        tmp_path / "a", ReferencedStudySequence=[outer, outer], **({"syntax": syntax} if syntax else {})
    )  # fmt: skip
    data = pydicom.dcmread(path)
    data["ReferencedStudySequence"].is_undefined_length = undefined
    data.save_as(path)
    _same(path, monkeypatch)
    found = plain.read_plain(path, pixels=True)
    assert found is not None
    assert (found.PatientID, found.Rows) == ("P1", 12)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_compressed_files(tmp_path, monkeypatch, syntax, dtype):
    pixels = np.arange(64 * 48).reshape(64, 48).astype(dtype) - (500 if dtype == np.int16 else 0)
    path = write_dicom(tmp_path / "a", pixels, BitsStored=16, HighBit=15)
    data = pydicom.dcmread(path)
    data.compress(syntax)
    data.save_as(path)
    assert plain.read_plain(path, pixels=True) is not None
    np.testing.assert_array_equal(read_hu(path, HU), (pixels.astype(int) - 1024).clip(*HU))
    _same(path, monkeypatch)
    content = path.read_bytes()
    for end in (-8, -200):  # without the end of the fragments, and of the codestream
        path.write_bytes(content[:end])
        _same(path, monkeypatch)


def test_what_is_left_to_pydicom(tmp_path, monkeypatch):
    path = _file(tmp_path / "a")
    data = path.read_bytes()
    cases = {
        "bare": data[132:],
        "empty": b"",
        "short": data[:-1],
        "header": data[:700],
        "text": b"text" * 100,
        "longer": data + b"\0" * 400,
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert plain.read_plain(tmp_path / name, pixels=True) is None or name == "longer"
        _same(tmp_path / name, monkeypatch)
    enhanced = write_enhanced(tmp_path / "enhanced", np.zeros((2, 8, 8), np.uint16), [(0, 0, 0), (0, 0, 1)])
    for path in (tmp_path, tmp_path / "missing", enhanced):
        assert plain.read_plain(path, pixels=False) is None
        _same(path, monkeypatch)


def test_sequences_in_sequences_without_end(tmp_path, monkeypatch):
    data = _file(tmp_path / "a").read_bytes()
    place = data.index(b"\x08\x00\x60\x00CS")  # Modality
    sequence = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (tmp_path / "a").write_bytes(data[:place] + sequence * 5000 + data[place:])
    assert plain.read_plain(tmp_path / "a", pixels=True) is None
    _same(tmp_path / "a", monkeypatch)


@pytest.mark.filterwarnings("ignore")
def test_a_decoder_that_panics_costs_the_file_only(tmp_path, monkeypatch):
    data = pydicom.dcmread(_file(tmp_path / "a"))
    data.compress(RLELossless)
    pixels = bytearray(data.PixelData)
    pixels[12 + 8 + 64] = 129  # the first run of the first segment is longer than the frame: the Rust decoder panics
    data.PixelData = bytes(pixels)
    data.save_as(tmp_path / "a")
    assert _outcome(read_hu, tmp_path / "a", HU) == "undecodable"
    _same(tmp_path / "a", monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("implicit", [False, True])
def test_broken_bytes_have_the_same_outcome(tmp_path, monkeypatch, implicit):
    path = _file(tmp_path / "a", **({"syntax": ImplicitVRLittleEndian} if implicit else {}))
    data = path.read_bytes()
    rng = np.random.default_rng(int(implicit))
    end = len(data) - 12 * 16 * 2
    for _ in range(400):
        broken = bytearray(data)
        for place in rng.integers(132, end, rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        _same(path, monkeypatch)
