"""Size of an image by its first bytes, held against the decoder's; the hash of a file."""

import hashlib
import io
import struct

import cv2
import numpy as np
import pytest

from data_prep.ingest.image import read_values
from data_prep.raw import image_size, look
from tests.data_prep.test_dicom import reason_of


def _image(rows=30, columns=50, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, (rows, columns)).astype(dtype)


def _exif(jpeg, orientation):
    """The JPEG with an EXIF segment of one entry."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_are_the_decoder_s(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), _image() if channels == 1 else np.dstack([_image()] * 3))
    assert look(path).size == read_values(path, channels).shape[:2] == (30, 50)


def test_npy_and_gif(tmp_path):
    np.save(tmp_path / "a.npy", _image(7, 9, np.int16))
    assert look(tmp_path / "a.npy").size == (7, 9)
    np.save(tmp_path / "b.npy", np.zeros(5))
    assert look(tmp_path / "b.npy").size is None
    assert image_size(io.BytesIO(b"GIF89a" + struct.pack("<2H", 565, 584) + bytes(20))) == (584, 565)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_has_the_size_of_its_upright_image(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    path.write_bytes(_exif(cv2.imencode(".jpg", _image())[1].tobytes(), orientation))
    assert look(path).size == read_values(path, 1).shape[:2] == ((30, 50) if orientation < 5 else (50, 30))


def test_progressive_jpeg_with_fill_bytes_and_a_long_comment(tmp_path):
    jpeg = cv2.imencode(".jpg", _image(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    comment = b"\xff\xff\xfe" + struct.pack(">H", 60002) + bytes(60000)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + comment + jpeg[2:])
    assert look(path).size == (30, 50)


@pytest.mark.parametrize(
    "start",
    [
        b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff\xda\0\0", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff",
        b"GIF89a",
        b"\x93NUMPY\x01\0\x00\x10broken", b"\x93NUMPY\x09\0", b"DICM", b"\xff\xd8\xff\xe1\0\x10Exif\0\0XX*\0",
    ],
)  # fmt: skip
def test_what_is_broken_or_foreign_has_no_size(start):
    assert image_size(io.BytesIO(start)) is None


def test_the_hash_is_that_of_the_content_and_follows_a_change(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert look(path).sha256 == hashlib.sha256(content).hexdigest()
        assert look(path) is look(path)  # of the last file the answer is kept
    path.unlink()
    assert reason_of(look, path) == "unreadable"
