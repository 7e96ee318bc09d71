"""Frames of enhanced files, the order of slices, and geometry that is recorded as it is."""

import json

import numpy as np
import pyarrow.parquet as pq
import pydicom
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEGLSLossless
import pytest
import tensorflow_datasets as tfds

from data_prep.build import build
from data_prep.ingest.dicom import read_headers, read_hu
from data_prep.ingest.dicom.geometry import plane
from tests.data_prep.dicom_files import write_dicom, write_enhanced
from tests.data_prep.test_dicom import RANGE, WIDE, reason_of


def _built(source, out, **options):
    """Pixels, manifest rows and build report of a source built whole into one split."""
    build("radnet", source, out, size=16, splits=("train",), log=lambda line: None, **options)
    images = [r["image"][..., 0] for r in tfds.builder_from_directory(out).as_data_source("train")]
    return images, pq.read_table(out / "manifest.parquet").to_pylist(), json.loads((out / "build.json").read_text())


def _slices(root, places, series="1.7.1", **fields):
    """One slice of value k at each place (x, y, z); file names run with k."""
    for k, place in enumerate(places):
        write_dicom(
            root / f"{k:02d}.dcm", np.full((16, 16), k, np.uint16),
            **{
                "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{k}", "ImagePositionPatient": list(place),
                "InstanceNumber": str(k), "RescaleIntercept": "0",
            } | fields,
        )  # fmt: skip


def test_frames_of_an_enhanced_file_have_their_own_rescale_and_place(tmp_path):
    pixels = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    path = write_enhanced(tmp_path / "in" / "a", pixels, [(0, 0, 9), (0, 0, 3), (0, 0, 6)])
    headers = read_headers(path)
    assert [h.plane.position for h in headers] == [9, 3, 6]
    for k in range(3):
        np.testing.assert_array_equal(read_hu(path, WIDE, k), (k + 1) * pixels[k].astype(int) - 1000)
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    for image, k in zip(images, (1, 2, 0), strict=True):  # along the normal
        np.testing.assert_array_equal(image, read_hu(path, RANGE, k))
    assert [row["slice"] for row in rows] == [0, 1, 2]
    assert [row["position"] for row in rows] == [0, 3, 6]
    assert len({row["case_id"] for row in rows}) == 3
    assert len({row["series"] for row in rows}) == 1
    assert report["files"] == 1


def test_shared_groups_serve_all_frames_and_stacks_are_series_of_their_own(tmp_path):
    def stacks(k, group):
        group.FrameContentSequence[0].StackID = str(k // 2)
        del group.PixelValueTransformationSequence

    transform = pydicom.Dataset()
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = "2", "-7", "HU"
    turn = pydicom.Dataset()
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    pixels = np.arange(4 * 256, dtype=np.uint16).reshape(4, 16, 16)
    path = write_enhanced(
        tmp_path / "in" / "a", pixels, [(0, 0, k) for k in range(4)], frames=stacks,
        shared={"PixelValueTransformationSequence": [transform], "PlaneOrientationSequence": [turn]},
    )  # fmt: skip
    np.testing.assert_array_equal(read_hu(path, WIDE, 3), pixels[3].astype(int) * 2 - 7)
    _, rows, _ = _built(tmp_path / "in", tmp_path / "out")
    assert [row["slice"] for row in rows] == [0, 1, 0, 1]
    assert len({row["series"] for row in rows}) == 2


def test_enhanced_files_that_are_not_understood(tmp_path):
    pixels, places = np.zeros((2, 8, 8), np.uint16), [(0, 0, 0), (0, 0, 1)]

    def without_rescale(k, group):
        if k == 1:
            del group.PixelValueTransformationSequence

    def not_hu(k, group):
        group.PixelValueTransformationSequence[0].RescaleType = "ED"

    def localizer(k, group):
        group.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]

    for change, reason in ((without_rescale, "missing_rescale"), (not_hu, "not_hu"), (localizer, "localizer")):
        assert reason_of(read_headers, write_enhanced(tmp_path / "a", pixels, places, frames=change)) == reason
    assert reason_of(read_headers, write_enhanced(tmp_path / "a", pixels, places[:1])) == "bad_frame_groups"
    path = write_enhanced(tmp_path / "a", pixels, places, shared={})  # no orientation
    assert [h.plane for h in read_headers(path)] == [None, None]


def test_frames_are_decoded_one_by_one_from_a_compressed_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 16, 16)).astype(np.uint16)
    path = write_enhanced(tmp_path / "a", pixels, [(0, 0, k) for k in range(3)])
    data = pydicom.dcmread(path)
    data.compress(JPEGLSLossless)
    data.save_as(tmp_path / "b")
    for k in (2, 0, 1):
        np.testing.assert_array_equal(read_hu(tmp_path / "b", WIDE, k), read_hu(path, WIDE, k))


def test_many_frames_in_a_plain_ct_file_have_no_place(tmp_path):
    """The header's one position can't be that of every frame, so they are ordered by their number."""
    pixels = np.arange(2 * 256, dtype=np.uint16).reshape(2, 16, 16)
    path = write_dicom(tmp_path / "in" / "a", pixels, NumberOfFrames="2")
    assert [h.plane for h in read_headers(path)] == [None, None]
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    for k in range(2):
        np.testing.assert_array_equal(images[k], pixels[k].astype(int) - 1024)
    assert [row["position"] for row in rows] == [None, None]
    assert report["series"]["without_positions"] == 1


def test_position_is_the_projection_on_the_normal():
    def position(orientation, place):
        return plane(orientation, place).position

    assert position([1, 0, 0, 0, 1, 0], [5, 6, -204.5]) == -204.5
    assert position([0, 1, 0, 0, 0, -1], [12.0, 3, 4]) == -12.0  # sagittal
    tilted = [1, 0, 0, 0, np.cos(0.3), np.sin(0.3)]
    assert position(tilted, [0, 0, 10]) == pytest.approx(10 * np.cos(0.3))


@pytest.mark.parametrize(
    ("orientation", "place"),
    [
        ([], [1, 2, 3]),
        ([1, 0, 0, 0, 1, 0], []),
        ([1, 0, 0, 1, 0, 0], [0, 0, 0]),  # not perpendicular
        ([0, 0, 0, 0, 0, 0], [0, 0, 0]),
        ([2, 0, 0, 0, 2, 0], [0, 0, 0]),
        ([1, 0, 0, 0, 1, 0], ["nan", 0, 0]),
        ([1, 0, 0, 0, 1, 0], ["left", 0, 0]),
    ],
)
def test_no_plane_is_made_up(orientation, place):
    assert plane(orientation, place) is None


def test_a_tilted_gantry_is_ordered_along_the_normal_and_counted(tmp_path):
    angle = np.radians(20)
    tilt = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    _slices(tmp_path / "in", [(0, 0, -5 * k) for k in range(4)], ImageOrientationPatient=tilt)
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert [int(image[0, 0]) for image in images] == [3, 2, 1, 0]
    assert np.diff([row["position"] for row in rows]) == pytest.approx([5 * np.cos(angle)] * 3, rel=1e-5)
    assert report["series"] == {
        "series": 1, "without_positions": 0, "uneven_gaps": 0, "shared_positions": 0, "sheared": 1,
    }  # fmt: skip


def test_missing_and_doubled_slices_are_recorded_not_filled(tmp_path):
    _slices(tmp_path / "in" / "gap", [(0, 0, z) for z in (0, 5, 10, 20)], series="1.7.1")
    _slices(tmp_path / "in" / "twice", [(0, 0, z) for z in (0, 5, 5, 10)], series="1.7.2")
    _slices(tmp_path / "in" / "one", [(0, 0, 3)], series="1.7.3")
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert len(images) == 9
    assert [row["position"] for row in rows] == [0, 5, 10, 20, 0, 0, 5, 5, 10]
    assert report["series"] == {
        "series": 3, "without_positions": 0, "uneven_gaps": 1, "shared_positions": 1, "sheared": 0,
    }  # fmt: skip


def test_slices_of_several_orientations_have_no_common_axis(tmp_path):
    _slices(tmp_path / "in", [(0, 0, -k) for k in range(3)])
    write_dicom(
        tmp_path / "in" / "03.dcm", np.full((16, 16), 3, np.uint16), SeriesInstanceUID="1.7.1",
        SOPInstanceUID="1.7.1.3", ImageOrientationPatient=[1, 0, 0, 0, 0, -1], InstanceNumber="9", RescaleIntercept="0",
    )  # fmt: skip
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert [int(image[0, 0]) for image in images] == [0, 1, 2, 3]  # by instance number
    assert {row["position"] for row in rows} == {None}
    assert report["series"]["without_positions"] == 1


def test_a_localizer_in_the_series_is_left_out(tmp_path):
    _slices(tmp_path / "in", [(0, 0, k) for k in range(3)])
    write_dicom(
        tmp_path / "in" / "scout.dcm", np.zeros((16, 16), np.uint16), SeriesInstanceUID="1.7.1",
        SOPInstanceUID="1.7.1.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )  # fmt: skip
    _, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert report["rejected"] == {"localizer": 1}


def test_the_same_instance_twice_is_one_record(tmp_path):
    _slices(tmp_path / "in" / "first", [(0, 0, k) for k in range(2)])
    _slices(tmp_path / "in" / "second", [(0, 0, k) for k in range(2)])
    pixels = np.zeros((2, 16, 16), np.uint16)
    for name in ("x", "y"):
        write_enhanced(tmp_path / "in" / name, pixels, [(0, 0, 0), (0, 0, 1)], SOPInstanceUID="1.7.5")
    images, _, report = _built(tmp_path / "in", tmp_path / "out")
    assert len(images) == 4
    assert report["rejected"] == {"duplicate": 3}  # files, not frames


def test_frames_that_can_not_be_decoded_cost_themselves_and_the_file_is_told_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1000, (4, 16, 16)).astype(np.uint16)
    path = write_enhanced(tmp_path / "in" / "a", pixels, [(0, 0, k) for k in range(4)])
    data = pydicom.dcmread(path)
    data.compress(JPEGLSLossless)
    frames = [get_frame(data.PixelData, k, number_of_frames=4) for k in range(4)]
    data.PixelData = encapsulate([frames[0], frames[1][:-40], frames[2], frames[3][:-40]])
    data.save_as(path)
    images, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert len(images) == 2
    assert [row["slice"] for row in rows] == [0, 2]
    assert report["rejected"] == {"truncated": 1}
    lines = (tmp_path / "out" / "rejected" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["detail"].split(":")[0] for line in lines] == ["frame 1", "frame 3"]


def test_burned_in_names_are_an_option_of_the_build(tmp_path):
    _slices(tmp_path / "in", [(0, 0, 0)])
    write_dicom(tmp_path / "in" / "b", np.zeros((16, 16), np.uint16), BurnedInAnnotation="YES", SOPInstanceUID="1.8")
    _, rows, report = _built(tmp_path / "in", tmp_path / "out")
    assert (len(rows), report["rejected"]) == (1, {"burned_in_annotation": 1})
    _, rows, report = _built(tmp_path / "in", tmp_path / "kept", burned_in="keep")
    assert (len(rows), report["rejected"]) == (2, {})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"PixelSpacing": ["0.7", "0.8"], "SliceThickness": "5"}, ((0.7, 0.8), 5.0)),
        ({"PixelSpacing": ["0.7", "0.8"]}, ((0.7, 0.8), None)),
        ({"SliceThickness": "2.5"}, (None, 2.5)),
        ({"ImagerPixelSpacing": ["0.1", "0.1"]}, (None, None)),  # at the detector
        ({"PixelSpacing": ["0", "0.8"], "SliceThickness": "-1"}, (None, None)),
        ({"PixelSpacing": "0.7", "SliceThickness": ""}, (None, None)),
    ],
)
def test_measures_are_the_header_s_own(tmp_path, fields, expected):
    (header,) = read_headers(write_dicom(tmp_path / "a", np.zeros((12, 16), np.uint16), **fields))
    assert (header.size, header.spacing, header.thickness) == ((12, 16), *expected)


def test_measures_of_an_enhanced_file_stand_in_its_groups(tmp_path):
    def measures(k, group):
        item = pydicom.Dataset()
        item.PixelSpacing, item.SliceThickness = ["0.5", "0.6"], str(k + 1)
        group.PixelMeasuresSequence = [item]

    path = write_enhanced(
        tmp_path / "a", np.zeros((2, 16, 16), np.uint16), [(0, 0, 0), (0, 0, 1)], frames=measures
    )  # fmt: skip
    headers = read_headers(path)
    assert [(h.spacing, h.thickness) for h in headers] == [((0.5, 0.6), 1.0), ((0.5, 0.6), 2.0)]
