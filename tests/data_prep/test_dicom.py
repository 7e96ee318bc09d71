"""Hounsfield units out of DICOM files, and the reasons for which a file is rejected."""

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
import pytest

from data_prep.ingest.dicom import read_header, read_hu, slice_position
from data_prep.ingest.image import fit, pad_square
from data_prep.spec import Reject
from tests.data_prep.dicom_files import write_dicom

WIDE = (-32000.0, 32000.0)
RANGE = (-1024.0, 3071.0)


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1", "-1024"), ("0.5", "-1000.25"), ("2.3", "7.5"), ("-1.5", "100"), ("1", "0")]
)
def test_hu_is_slope_times_stored_plus_intercept_rounded_once(tmp_path, slope, intercept):
    stored = np.random.default_rng(0).integers(0, 4096, (7, 5)).astype(np.uint16)
    path = write_dicom(tmp_path / "a", stored, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = np.rint(np.clip(float(slope) * stored.astype(np.float64) + float(intercept), *WIDE)).astype(np.int16)
    got = read_hu(path, WIDE)
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, expected)


def test_signed_pixels_of_twelve_bits(tmp_path):
    stored = np.array([[-2048, -1024, -1], [0, 55, 2047]], np.int16)
    path = write_dicom(tmp_path / "a", stored, RescaleIntercept="0")
    np.testing.assert_array_equal(read_hu(path, WIDE), stored)


def test_bits_above_bits_stored_do_not_count(tmp_path):
    """Old writers kept an overlay in the four unused bits."""
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    path = write_dicom(tmp_path / "a", values | 0xA000)
    np.testing.assert_array_equal(read_hu(path, WIDE), values.astype(np.int16) - 1024)


def test_values_are_clipped_and_high_padding_becomes_air(tmp_path):
    stored = np.array([[-2000, -1500, 40], [32767, 4000, 3000]], np.int16)
    bits = {"BitsStored": 16, "HighBit": 15, "RescaleIntercept": "0", "PixelPaddingValue": 32767}
    path = write_dicom(tmp_path / "a", stored, **bits)
    np.testing.assert_array_equal(read_hu(path, RANGE), [[-1024, -1024, 40], [-1024, 3071, 3000]])


@pytest.mark.parametrize(
    ("reason", "fields", "remove"),
    [
        ("missing_rescale", {}, ("RescaleSlope",)),
        ("missing_rescale", {"RescaleIntercept": None}, ()),
        ("bad_rescale", {"RescaleSlope": "0"}, ()),
        ("not_hu", {"RescaleType": "US"}, ()),
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ()),
        ("secondary_capture", {"meta_class": "1.2.840.10008.5.1.4.1.1.7"}, ()),
        ("secondary_capture", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ()),
        ("multi_frame", {"meta_class": "1.2.840.10008.5.1.4.1.1.2.1"}, ()),
        ("multi_frame", {"NumberOfFrames": "4"}, ()),
        ("not_ct", {"meta_class": "1.2.840.10008.5.1.4.1.1.4"}, ()),
        ("monochrome1", {"PhotometricInterpretation": "MONOCHROME1"}, ()),
        ("not_monochrome", {"PhotometricInterpretation": "PALETTE COLOR"}, ()),
        ("unsupported_bits", {"HighBit": 15}, ()),
        ("bad_header", {}, ("BitsStored",)),
    ],
)
def test_header_pass_rejects(tmp_path, reason, fields, remove):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), remove=remove, **fields)
    with pytest.raises(Reject) as error:
        read_header(path)
    assert error.value.reason == reason
    with pytest.raises(Reject) as error:
        read_hu(path, RANGE)
    assert error.value.reason == reason


def test_files_that_are_no_dicom(tmp_path):
    (tmp_path / "text").write_text("patient list\n" * 50)
    (tmp_path / "empty").touch()
    whole = write_dicom(tmp_path / "whole", np.zeros((32, 32), np.uint16)).read_bytes()
    (tmp_path / "head").write_bytes(whole[:100])
    for name, reason in {"text": "not_dicom", "empty": "empty_file", "head": "not_dicom", "none": "unreadable"}.items():
        with pytest.raises(Reject) as error:
            read_header(tmp_path / name)
        assert error.value.reason == reason, name


def test_truncated_pixels_pass_the_header_and_fail_at_the_pixels(tmp_path):
    path = write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16))
    path.write_bytes(path.read_bytes()[:-500])
    read_header(path)
    with pytest.raises(Reject) as error:
        read_hu(path, RANGE)
    assert error.value.reason == "truncated"


def test_broken_compressed_pixels_are_undecodable(tmp_path):
    path = write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16))
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.PixelData = pydicom.encaps.encapsulate([b"\x01\x00\x00\x00" + b"\xff" * 80])
    data.save_as(path)
    with pytest.raises(Reject) as error:
        read_hu(path, RANGE)
    assert error.value.reason == "undecodable"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_data_set_without_preamble_and_meta(tmp_path, syntax):
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    data = pydicom.dcmread(write_dicom(tmp_path / "a", stored))
    bare = pydicom.Dataset(data)
    implicit = syntax == ImplicitVRLittleEndian
    bare.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "bare").read_bytes()[128:132] != b"DICM"
    assert read_header(tmp_path / "bare").patient == "P1"
    np.testing.assert_array_equal(read_hu(tmp_path / "bare", WIDE), stored.astype(int) - 1024)


def test_nothing_of_the_file_reaches_the_log(tmp_path, caplog, recwarn, capfd):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16))
    raw = path.read_bytes().replace(b"1.2.3.1\0", b"1..3.x1\0").replace(b"P1", b"P\xff")
    path.write_bytes(raw)
    assert read_header(path).study == "1..3.x1"
    read_hu(path, RANGE)
    captured = capfd.readouterr()
    assert not caplog.records
    assert not recwarn.list
    assert not captured.out
    assert not captured.err


def test_slice_position_is_the_projection_on_the_normal():
    assert slice_position([1, 0, 0, 0, 1, 0], [5, 6, -204.5]) == -204.5
    assert slice_position([0, 1, 0, 0, 0, -1], [12.0, 3, 4]) == -12.0  # sagittal
    tilted = [1, 0, 0, 0, np.cos(0.3), np.sin(0.3)]
    assert slice_position(tilted, [0, 0, 10]) == pytest.approx(10 * np.cos(0.3))
    assert slice_position([], [1, 2, 3]) is None


def test_pad_area_keeps_the_aspect_ratio_and_the_mean():
    image = np.arange(8 * 4, dtype=np.int16).reshape(8, 4, 1) * 10
    square = pad_square(image, -1024)
    assert square.shape == (8, 8, 1)
    np.testing.assert_array_equal(square[:, 2:6], image)
    assert (square[:, :2] == -1024).all()
    small = fit(image, (4, 4), "pad_area", -1024)
    blocks = square.astype(float).reshape(4, 2, 4, 2, 1).mean((1, 3))
    np.testing.assert_array_equal(small, np.rint(blocks).astype(np.int16))
    assert small.dtype == np.int16
