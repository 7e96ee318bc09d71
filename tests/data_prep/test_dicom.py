"""Hounsfield units out of DICOM files, and the reasons for which a file is rejected."""

from pathlib import Path
import re
import struct
import time

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
import pytest

from data_prep.ingest.dicom import read_headers, read_hu
from data_prep.ingest.image import fit, pad_square
from data_prep.spec import Reject
from tests.data_prep.dicom_files import write_dicom

WIDE = (-32000.0, 32000.0)
RANGE = (-1024.0, 3071.0)


def reason_of(read, *arguments):
    """The reason for which `read` rejects its arguments."""
    with pytest.raises(Reject) as error:
        read(*arguments)
    return error.value.reason


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


def test_monochrome1_windows_and_presentation_say_nothing_about_hu(tmp_path):
    stored = np.array([[0, 24], [1024, 3000]], np.uint16)
    plain = read_hu(write_dicom(tmp_path / "a", stored), WIDE)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], b"\xff\x00\xff\x00"
    shown = write_dicom(
        tmp_path / "b", stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=["40", "-600"],
        WindowWidth=["400", "1500"], VOILUTSequence=[table], PresentationLUTShape="INVERSE",
    )  # fmt: skip
    np.testing.assert_array_equal(read_hu(shown, WIDE), plain)
    np.testing.assert_array_equal(plain, stored.astype(int) - 1024)


@pytest.mark.parametrize("signed", [False, True])
def test_values_that_stand_high_in_their_words(tmp_path, signed):
    """HighBit 15 with 12 bits stored: old scanners left-justify."""
    values = np.array([[-2048, -1], [5, 2047]], np.int16) if signed else np.array([[0, 1], [2048, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a", (values << 4) | 0xA, HighBit=15, RescaleIntercept="-10")
    np.testing.assert_array_equal(read_hu(path, WIDE), values.astype(int) - 10)


@pytest.mark.parametrize(
    ("signed", "stored_bits", "padding", "words"),
    [
        (True, 16, -2000, [-2000, 5]),
        (True, 16, 63536, [-2000, 5]),  # -2000 as an unsigned number
        (False, 16, -2000, [63536, 5]),
        (False, 12, 63536, [63536, 5]),  # uses bits that are not stored: whole words are compared
        (False, 12, 4095, [4095, 5]),
        (False, 12, 4095, [0xF000 | 4095, 5]),  # padding under an old overlay
    ],
)
def test_padding_becomes_the_lowest_value(tmp_path, signed, stored_bits, padding, words):
    stored = np.array([words], np.int16 if signed else np.uint16)
    kind = "<h" if padding < 0 else "<H"
    path = write_dicom(
        tmp_path / "a", stored, BitsStored=stored_bits, HighBit=stored_bits - 1, RescaleIntercept="100",
        padding=struct.pack(kind, padding), remove=(),
    )  # fmt: skip
    np.testing.assert_array_equal(read_hu(path, (-1024.0, 3071.0)), [[-1024, 105]])


def test_a_range_of_padding_values(tmp_path):
    stored = np.array([[-2000, -1500, -1499, 7]], np.int16)
    bits = {"BitsStored": 16, "HighBit": 15, "RescaleIntercept": "2000"}
    path = write_dicom(tmp_path / "a", stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500, **bits)
    np.testing.assert_array_equal(read_hu(path, WIDE), [[-32000, -32000, 501, 2007]])


def test_modality_lut_in_hu(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 10, 16], "HU"
    table.LUTData = np.array([0, 100, 1000, 3000], np.uint16).tobytes()
    stored = np.array([[9, 10, 11], [12, 13, 99]], np.uint16)
    path = write_dicom(tmp_path / "a", stored, remove=("RescaleSlope", "RescaleIntercept"), ModalityLUTSequence=[table])
    assert read_headers(path)
    np.testing.assert_array_equal(read_hu(path, RANGE), [[0, 0, 100], [1000, 3000, 3000]])
    for change, reason in ({"ModalityLUTType": "US"}, "not_hu"), ({}, "ambiguous_rescale"):
        item = pydicom.Dataset(table)
        for name, value in change.items():
            setattr(item, name, value)
        fields = {"remove": ("RescaleSlope", "RescaleIntercept")} if change else {}
        path = write_dicom(tmp_path / "b", stored, ModalityLUTSequence=[item], **fields)
        assert reason_of(read_headers, path) == reason


def test_eight_and_thirty_two_bits(tmp_path):
    small = np.array([[0, 200], [255, 3]], np.uint8)
    path = write_dicom(tmp_path / "a", small, BitsAllocated=8, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(read_hu(path, WIDE), small.astype(int) - 1024)
    large = np.array([[0, 2_000_000], [-5, 3]], np.int32)
    path = write_dicom(tmp_path / "b", large, BitsAllocated=32, BitsStored=32, HighBit=31, RescaleSlope="0.001")
    np.testing.assert_array_equal(read_hu(path, WIDE), [[-1024, 976], [-1024, -1024]])


def test_overlays_leave_the_pixels_alone(tmp_path):
    """An overlay of its own (group 6000) and one in the unused bits."""
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    path = write_dicom(tmp_path / "a", stored | 0x1000)
    data = pydicom.dcmread(path)
    data.add_new(0x60000010, "US", 4)
    data.add_new(0x60000011, "US", 4)
    data.add_new(0x60000040, "CS", "G")
    data.add_new(0x60003000, "OW", b"\xff\xff")
    data.save_as(path)
    np.testing.assert_array_equal(read_hu(path, WIDE), stored.astype(int) - 1024)


def test_burned_in_names_are_taken_only_where_asked_for(tmp_path):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), BurnedInAnnotation="YES")
    assert reason_of(read_headers, path) == "burned_in_annotation"
    assert len(read_headers(path, burned_in=True)) == 1
    assert read_hu(path, WIDE, burned_in=True).shape == (4, 4)
    assert read_headers(write_dicom(tmp_path / "b", np.zeros((4, 4), np.uint16), BurnedInAnnotation="NO"))


@pytest.mark.parametrize(
    ("charset", "part", "patient"),
    [
        ("ISO_IR 100", "SCHÄDEL", "Müller"),
        ("ISO_IR 192", "Schädel", "山田"),
        ("ISO_IR 144", "CHEST", "Иванов"),
        ("GB18030", "CHEST", "王"),
        (["", "ISO 2022 IR 87"], "CHEST", "山田"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_character_sets(tmp_path, charset, part, patient):
    fields = {"SpecificCharacterSet": charset, "PatientName": patient, "BodyPartExamined": part}
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), PatientID=patient, **fields)
    assert read_headers(path)[0].patient == patient
    assert read_hu(path, WIDE).shape == (4, 4)


def test_body_parts_with_umlauts(tmp_path):
    for charset, encoding in (("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8")):
        path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), SpecificCharacterSet=charset)
        old, new = b"CHEST ", "HÄLS  ".encode(encoding)[:6]
        assert path.read_bytes().count(old) == 1
        path.write_bytes(path.read_bytes().replace(old, new))
        assert read_headers(path)[0].body_part == "HÄLS"


def test_an_unknown_character_set_and_bytes_outside_it(tmp_path):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), SpecificCharacterSet="ISO_IR 100", PatientID="PX")
    raw = path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999").replace(b"PX", b"P\xe9")
    path.write_bytes(raw)
    assert read_headers(path)[0].patient.startswith("P")
    read_headers(path)[0].patient.encode()  # can be hashed


@pytest.mark.parametrize("place", ["file meta", "data set"])
def test_a_value_representation_that_does_not_exist(tmp_path, place):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16))
    raw = path.read_bytes()
    old = b"\x02\x00\x12\x00UI" if place == "file meta" else b"\x10\x00\x20\x00LO"
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, old[:4] + b"Zq"))
    try:
        assert read_hu(path, WIDE).max() == -1024
    except Reject as reject:
        assert reject.reason in ("not_dicom", "truncated", "bad_header")  # noqa: PT017


def test_zero_frames_count_as_one(tmp_path):
    path = write_dicom(tmp_path / "a", np.full((4, 4), 1024, np.uint16), NumberOfFrames="0")
    assert len(read_headers(path)) == 1
    assert (read_hu(path, WIDE) == 0).all()


def test_pydicoms_own_ct_files():
    mismatch = read_hu(Path(get_testdata_file("J2K_pixelrep_mismatch.dcm")), (-2000.0, 3071.0))
    assert mismatch.min() == -2000  # signed by its header, unsigned by its codestream
    small = Path(get_testdata_file("CT_small.dcm"))
    data = pydicom.dcmread(small)
    expected = data.pixel_array.astype(float) * data.RescaleSlope + data.RescaleIntercept
    expected[data.pixel_array == data.PixelPaddingValue] = -1024
    np.testing.assert_array_equal(read_hu(small, RANGE), np.clip(expected, *RANGE))
    others = {
        "MR_small.dcm": "not_ct", "rtdose.dcm": "not_ct", "rtplan.dcm": "not_ct", "reportsi.dcm": "structured_report",
        "image_dfl.dcm": "secondary_capture", "examples_palette.dcm": "not_ct", "examples_ybr_color.dcm": "not_ct",
        "badVR.dcm": "not_ct", "UN_sequence.dcm": "truncated", "no_meta.dcm": "not_dicom", "liver_1frame.dcm": "not_ct",
        "ExplVR_BigEndNoMeta.dcm": "not_dicom", "meta_missing_tsyntax.dcm": "truncated",
    }  # fmt: skip
    assert {name: reason_of(read_headers, Path(get_testdata_file(name))) for name in others} == others


def test_no_pydicom_file_raises_anything_but_a_reason():
    for path in sorted(Path(get_testdata_file("CT_small.dcm")).parent.glob("*.dcm")):
        try:
            assert read_hu(path, RANGE).dtype == np.int16
        except Reject as reject:
            assert re.fullmatch("[a-z0-9_]+", reject.reason)  # noqa: PT017


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
        ("bad_frame_groups", {"meta_class": "1.2.840.10008.5.1.4.1.1.2.1"}, ()),
        ("not_ct", {"meta_class": "1.2.840.10008.5.1.4.1.1.4"}, ()),
        ("not_monochrome", {"PhotometricInterpretation": "PALETTE COLOR"}, ()),
        ("not_ct", {"Modality": "PT"}, ()),
        ("localizer", {"ImageType": ["DERIVED", "SECONDARY", "SCOUT VIEW"]}, ()),
        ("secondary_capture", {"ConversionType": "WSD"}, ()),
        ("secondary_capture", {"meta_class": "1.2.840.10008.5.1.4.1.1.7.2", "NumberOfFrames": "2"}, ()),
        ("dose_report", {"meta_class": "1.2.840.10008.5.1.4.1.1.88.67"}, ()),
        ("dose_report", {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "DOSE_INFO"]}, ()),
        ("structured_report", {"meta_class": "1.2.840.10008.5.1.4.1.1.88.33"}, ()),
        ("burned_in_annotation", {"BurnedInAnnotation": "YES"}, ()),
        ("not_monochrome", {"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, ()),
        ("unsupported_bits", {"HighBit": 10}, ()),
        ("unsupported_bits", {"HighBit": 16}, ()),
        ("unsupported_bits", {"BitsAllocated": 12}, ()),
        ("unsupported_bits", {"PixelRepresentation": 7}, ()),
        ("bad_header", {"Rows": 0}, ()),
        ("missing_rescale", {"RescaleSlope": ""}, ()),
        ("bad_header", {}, ("BitsStored",)),
    ],
)
def test_header_pass_rejects(tmp_path, reason, fields, remove):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16), remove=remove, **fields)
    with pytest.raises(Reject) as error:
        read_headers(path)
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
            read_headers(tmp_path / name)
        assert error.value.reason == reason, name


@pytest.mark.parametrize("fields", [{}, {"BodyPartExamined": "H\u00fcfte", "SpecificCharacterSet": "ISO_IR 192"}])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_truncated_pixels_are_told_from_the_header_too(tmp_path, syntax, fields):
    pixels = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)
    path = write_dicom(tmp_path / "a", pixels, **fields)
    data = pydicom.dcmread(path)
    if syntax == RLELossless:
        data.compress(syntax)
    else:
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    read_headers(path)
    path.write_bytes(path.read_bytes()[:-500])
    for read in (read_headers, lambda p: read_hu(p, RANGE)):
        with pytest.raises(Reject) as error:
            read(path)
        assert error.value.reason == "truncated"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_a_number_of_frames_that_the_file_cannot_hold_costs_nothing(tmp_path, syntax):
    path = write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16))
    data = pydicom.dcmread(path)
    if syntax == RLELossless:
        data.compress(syntax)
    data.file_meta.TransferSyntaxUID = syntax
    data.NumberOfFrames = "1000000000"
    data.save_as(path, implicit_vr=False, little_endian=True)
    start = time.monotonic()
    with pytest.raises(Reject) as error:
        read_headers(path)
    assert error.value.reason == "truncated"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("number", "instance"), [(str(1 << 63), None), ("1e300", None), ("-7", -7), ("12.0", 12)])
@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:Value exceeds")
def test_instance_numbers_that_no_integer_holds(tmp_path, number, instance):
    path = write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16), InstanceNumber="1234567")
    content = path.read_bytes().replace(
        b"IS\x08\x001234567 ", b"IS" + struct.pack("<H", 20) + number.ljust(20).encode()
    )
    path.write_bytes(content)
    assert read_headers(path)[0].instance == instance


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
    assert read_headers(tmp_path / "bare")[0].patient == "P1"
    np.testing.assert_array_equal(read_hu(tmp_path / "bare", WIDE), stored.astype(int) - 1024)


def test_nothing_of_the_file_reaches_the_log(tmp_path, caplog, recwarn, capfd):
    path = write_dicom(tmp_path / "a", np.zeros((4, 4), np.uint16))
    raw = path.read_bytes().replace(b"1.2.3.1\0", b"1..3.x1\0").replace(b"P1", b"P\xff")
    path.write_bytes(raw)
    assert read_headers(path)[0].study == "1..3.x1"
    read_hu(path, RANGE)
    captured = capfd.readouterr()
    assert not caplog.records
    assert not recwarn.list
    assert not captured.out
    assert not captured.err


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
