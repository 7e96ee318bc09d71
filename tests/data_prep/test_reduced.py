"""JPEG decoded at a fraction of its size: nearly the same pixels after the area average."""

import cv2
import numpy as np
import pytest

from data_prep.ingest.image import fit, read_image
from data_prep.ingest.reduced import _factor, read_reduced
from data_prep.miniatures.imagenet import with_orientation
from data_prep.miniatures.parts import photograph, radiograph, write_image
from tests.data_prep.test_dicom import reason_of


@pytest.mark.parametrize(("size", "factor"), [(16, 8), (25, 4), (40, 2), (80, 1), (300, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_nearly_those_of_a_full_decoding(tmp_path, size, factor, channels):
    path = tmp_path / "a.jpg"
    write_image(path, photograph((5,), 256, 320) if channels == 3 else radiograph((5,), 256, 320)[0])
    assert _factor(path, size) == factor
    reduced = read_reduced(path, channels, size)
    assert reduced.shape == (256 // factor, 320 // factor, channels)
    full = fit(read_image(path, channels), (size, size), "stretch_area", 0).astype(int)
    error = abs(fit(reduced, (size, size), "stretch_area", 0).astype(int) - full)
    assert error.mean() <= (2.0 if channels == 3 else 1.0)


@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_headers_of_all_kinds_are_found(tmp_path, flags):
    write_image(tmp_path / "a.JPEG", photograph((1,), 64, 96), *flags)
    assert _factor(tmp_path / "a.JPEG", 8) == 4
    data = (tmp_path / "a.JPEG").read_bytes()
    (tmp_path / "a.JPEG").write_bytes(data[:2] + b"\xff\xfe" + (60000).to_bytes(2, "big") + bytes(59998) + data[2:])
    assert _factor(tmp_path / "a.JPEG", 8) == 4  # after a long comment
    (tmp_path / "a.JPEG").write_bytes(data[:2] + b"\xff" + data[2:])
    assert _factor(tmp_path / "a.JPEG", 8) == 4  # after a fill byte
    (tmp_path / "a.JPEG").write_bytes(with_orientation(data, 6))
    assert read_reduced(tmp_path / "a.JPEG", 3, 8).shape == (24, 16, 3)  # upright


def test_other_and_broken_files(tmp_path):
    write_image(tmp_path / "png.jpg", photograph((1,), 64, 96))
    data = (tmp_path / "png.jpg").read_bytes()
    write_image(tmp_path / "b.png", photograph((1,), 64, 96))
    (tmp_path / "png.jpg").write_bytes((tmp_path / "b.png").read_bytes())
    np.testing.assert_array_equal(read_reduced(tmp_path / "png.jpg", 3, 8), read_image(tmp_path / "b.png", 3))
    broken = {"cut.jpg": data[: len(data) // 2], "head.jpg": data[:100], "start.jpg": data[:3], "none.jpg": b""}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    reasons = {name: reason_of(read_reduced, tmp_path / name, 3, 8) for name in [*broken, "absent.jpg"]}
    assert reasons == {
        "cut.jpg": "undecodable", "head.jpg": "undecodable", "start.jpg": "undecodable", "none.jpg": "empty_file",
        "absent.jpg": "unreadable",
    }  # fmt: skip
