"""Modalities without Hounsfield units, as a viewer shows them."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array
import pytest

from data_prep.ingest.dicom.display import apply_window, read_display, read_display_headers
from tests.data_prep.dicom_files import write_dicom
from tests.data_prep.test_dicom import reason_of

XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
PLAIN = ("RescaleSlope", "RescaleIntercept")


def _xray(path, pixels, **fields):
    return write_dicom(path, pixels, **{"meta_class": XRAY, "Modality": "DX", "remove": PLAIN} | fields)


def test_the_first_of_several_windows(tmp_path):
    stored = np.array([[0, 100], [1000, 1500], [2000, 4095]], np.uint16)
    path = _xray(tmp_path / "a", stored, WindowCenter=["1000", "5"], WindowWidth=["2001", "9"])
    expected = np.rint(np.clip((stored - 999.5) / 2000 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(read_display(path, 1)[..., 0], expected)
    assert read_display(path, 3).shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("function", "expected"),
    [("LINEAR", [0, 0.5, 1]), ("LINEAR_EXACT", [0, 0.5, 1]), ("SIGMOID", [0.1192, 0.5, 0.8808])],
)
def test_window_functions(function, expected):
    width, centre = 200.0, 50.0
    ends = {"LINEAR": [-50.0, 49.5, 149.0], "LINEAR_EXACT": [-50.0, 50.0, 150.0], "SIGMOID": [-50.0, 50.0, 150.0]}
    assert apply_window(np.array(ends[function]), centre, width, function) == pytest.approx(expected, abs=1e-4)


def test_monochrome1_is_turned_round_once(tmp_path):
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    window = {"WindowCenter": "1000", "WindowWidth": "2000"}
    plain = read_display(_xray(tmp_path / "a", stored, **window), 1).astype(int)
    for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
        path = _xray(tmp_path / "b", stored, PhotometricInterpretation="MONOCHROME1", **window, **shape)
        assert abs(read_display(path, 1) - (255 - plain)).max() <= 1  # halves round to even on both sides
    for photometric, shape in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        path = _xray(tmp_path / "c", stored, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
        assert reason_of(read_display_headers, path) == "ambiguous_presentation"


def test_a_voi_lut_comes_before_the_window(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 16], np.array([0, 100, 6553, 65535], np.uint16).tobytes()
    stored = np.array([[9, 10, 11], [12, 13, 99]], np.uint16)
    path = _xray(tmp_path / "a", stored, VOILUTSequence=[table], WindowCenter="1", WindowWidth="1")
    assert read_display(path, 1)[..., 0].tolist() == [[0, 0, 0], [25, 255, 255]]


def test_deep_pixels_without_a_window_need_a_range(tmp_path):
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    path = _xray(tmp_path / "a", stored)
    assert reason_of(read_display, path, 1) == "missing_window"
    assert read_display(path, 1, value_range=(0.0, 2000.0))[..., 0].tolist() == [[0, 128], [255, 255]]
    eight = np.array([[0, 7], [200, 255]], np.uint8)
    path = _xray(tmp_path / "b", eight, BitsAllocated=8, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(read_display(path, 1)[..., 0], eight)


def test_rescale_comes_before_the_window_and_padding_is_black(tmp_path):
    stored = np.array([[0, 10], [20, 30]], np.uint16)
    path = _xray(
        tmp_path / "a", stored, remove=(), RescaleSlope="-10", RescaleIntercept="300", WindowCenter="150.5",
        WindowWidth="301", PixelPaddingValue=0,
    )  # fmt: skip
    assert read_display(path, 1)[..., 0].tolist() == [[0, 170], [85, 0]]


@pytest.mark.parametrize(
    "name",
    ["examples_rgb_color.dcm", "examples_jpeg2k.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm",
     "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_gdcm_KY.dcm"],
)  # fmt: skip
def test_colours_come_out_as_rgb(name):
    path = Path(get_testdata_file(name))
    expected = pixel_array(path)
    image = read_display(path, 3)
    np.testing.assert_array_equal(image, expected)
    grey = read_display(path, 1)
    assert grey.shape == (*expected.shape[:2], 1)
    assert abs(grey[..., 0] - expected @ [0.299, 0.587, 0.114]).max() <= 1


def test_palette_and_frames_of_an_ultrasound_clip():
    image = read_display(Path(get_testdata_file("examples_palette.dcm")), 3)
    assert image.ndim == 3
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    clip = Path(get_testdata_file("examples_ybr_color.dcm"))
    assert len(read_display_headers(clip)) == 30
    np.testing.assert_array_equal(read_display(clip, 3, 7), pixel_array(clip, index=7))


def test_what_is_no_image_and_burned_in_names(tmp_path):
    others = {"reportsi.dcm": "structured_report", "rtplan.dcm": "not_an_image", "no_meta.dcm": "not_dicom"}
    assert {n: reason_of(read_display_headers, Path(get_testdata_file(n))) for n in others} == others
    eight = np.zeros((4, 4), np.uint8)
    fields = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "BurnedInAnnotation": "YES"}
    path = _xray(tmp_path / "a", eight, **fields)
    assert reason_of(read_display, path, 1) == "burned_in_annotation"
    assert read_display(path, 1, burned_in=True).shape == (4, 4, 1)
