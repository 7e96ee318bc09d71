"""The perceptual hash: its formula, what it is blind to, and what turning an image does to it."""

import cv2
import numpy as np
import pytest
import scipy.fft

from data_prep import phash as ph
from data_prep.audit.likeness import TURNS, likeness, views
from data_prep.ingest.image import fit
from radnet_jax.preprocessing import StoredPixels

XR = StoredPixels("XR", "none", (0.0, 255.0), (128, 128), 1, "pad_area", "uint8")
CT = StoredPixels("CT", "HU", (-1024.0, 3071.0), (128, 128), 1, "pad_area", "int16")


def _blobs(seed, size=(128, 128)):
    noise = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), size[0] / 14)
    return np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)[..., None]


def _bits(a, b):
    return (a ^ b).bit_count()


def test_the_formula():
    """Signs of the 8x8 block that begins at (1, 1) of the orthonormal DCT-II of the 32x32 image."""
    image = _blobs(0, (64, 64))
    small = image[..., 0].reshape(32, 2, 32, 2).mean((1, 3)) / 255
    signs = scipy.fft.dctn(small, norm="ortho")[1:9, 1:9] > 0
    expected = int("".join(str(int(bit)) for bit in signs.ravel()), 2)
    stored = StoredPixels("XR", "none", (0.0, 255.0), (64, 64), 1, "none", "uint8")
    assert ph.phash(image, stored, None) == expected


def test_unrelated_images_differ_in_half_of_their_bits():
    hashes = [ph.phash(_blobs(k), XR, None) for k in range(40)]
    distances = [_bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert 30 < np.mean(distances) < 34
    assert min(distances) > 12


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        (lambda image: image // 2 + 60, 1),
        (lambda image: cv2.resize(image, (70, 70), interpolation=cv2.INTER_AREA)[..., None], 2),
        (lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0)[..., None], 4),
        (lambda image: np.rint(255 * (image / 255) ** 0.7).astype(np.uint8), 6),
        (lambda image: cv2.resize(image[2:-2, 2:-2], (128, 128))[..., None], 8),
    ],
    ids=["contrast", "size", "jpeg", "gamma", "crop"],
)
def test_copies_stay_near(change, limit):
    for k in range(10):
        image = _blobs(k)
        copy = change(image)
        stored = StoredPixels("XR", "none", (0.0, 255.0), copy.shape[:2], 1, "none", "uint8")
        assert _bits(ph.phash(image, XR, None), ph.phash(copy, stored, None)) <= limit


def test_turned_images_have_the_turned_hash_and_the_turned_detail():
    image = _blobs(3)
    own = np.array([ph.phash(image, XR, None)], np.uint64)
    detail = views(image, XR, None, 64, windows=False)
    assert len({str(turn) for turn in TURNS}) == 16
    for turn in TURNS:
        turned = image.transpose(1, 0, 2) if turn.transposed else image
        turned = turned[:, ::-1] if turn.mirrored else turned
        turned = turned[::-1] if turn.upside_down else turned
        turned = np.ascontiguousarray(255 - turned if turn.inverted else turned)
        assert ph.phash(turned, XR, None) == turn.hashes(own)[0]
        assert likeness(turn.views(detail), views(turned, XR, None, 64, windows=False)) > 0.99


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (61, 100), (100, 100)])
def test_padding_plays_no_part(shape):
    image = _blobs(5, shape)
    padded = fit(image, (128, 128), "pad_area", 0)
    stretched = fit(image, (128, 128), "stretch_area", 0)
    stretch = StoredPixels("XR", "none", (0.0, 255.0), (128, 128), 1, "stretch_area", "uint8")
    rows, columns = ph.content(shape, XR)
    assert padded[rows, columns].min(axis=(0, 2)).max() > 0
    assert _bits(ph.phash(padded, XR, shape), ph.phash(stretched, stretch, shape)) <= 4
    if shape != (100, 100):
        assert _bits(ph.phash(padded, XR, None), ph.phash(stretched, stretch, shape)) > 8


def test_plain_images_have_none():
    for value in (0, 255):
        assert ph.phash(np.full((128, 128, 1), value, np.uint8), XR, None) is None
    assert ph.phash(np.random.default_rng(0).integers(100, 104, (128, 128, 1)).astype(np.uint8), XR, None) is None
    air = np.random.default_rng(0).normal(-1000, 15, (128, 128, 1)).astype(np.int16)
    assert ph.phash(air, CT, None) is None


def test_colour_and_its_grey_version_have_one_hash():
    colour = np.concatenate([_blobs(k) for k in range(3)], axis=2)
    rgb = StoredPixels("photo", "none", (0.0, 255.0), (128, 128), 3, "none", "uint8")
    grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)[..., None]
    assert _bits(ph.phash(colour, rgb, None), ph.phash(grey, XR, None)) <= 1


def test_hounsfield_units_go_through_the_curve():
    hu = np.array([[[-2000]], [[-600]], [[40]], [[3000]]], np.int16)
    assert ph.tone(hu, CT)[:, 0].tolist() == pytest.approx([0, 0.25, (0.5 + 1390 / 1500) / 2, 1])
