"""image_folder, and images of all kinds."""

import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep.build import build
from data_prep.facts import age_band, scanner, sex, view
from data_prep.ingest.image import fit_mask, read_hu, read_image
from radnet_jax.errors import UserError
from tests.data_prep.test_dicom import reason_of


def _png(path, value, size=20, channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size, channels) if channels > 1 else (size, size)
    cv2.imwrite(str(path), np.full(shape, value, np.uint8))


def _records(out, split):
    return list(tfds.builder_from_directory(out).as_data_source(split))


def _reasons(out):
    return json.loads((out / "build.json").read_text())["rejected"]


def test_class_folders(tmp_path):
    for name in ("zebra", "ape"):
        for k in range(10):
            _png(tmp_path / "in" / name / "deep" / f"{k}.png", k)
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, :10] = (255, 0, 0)  # blue, in the order of OpenCV
    cv2.imwrite(str(tmp_path / "in" / "ape" / "wide.PNG"), image)
    (tmp_path / "in" / "ape" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "in" / "ape" / "readme.md").write_text("text")
    cv2.imwrite(str(tmp_path / "in" / "ape" / "deep.png"), np.zeros((8, 8), np.uint16))
    _png(tmp_path / "in" / "stray.png", 1)
    card = build("image_folder", tmp_path / "in", tmp_path / "out", size=16, splits=("train",))
    assert card.labels == ("ape", "zebra")
    assert card.task == "single_label"
    assert card.stored.resize == "stretch_area"
    records = _records(tmp_path / "out", "train")
    assert sorted(r["label"] for r in records) == [0] * 11 + [1] * 10
    assert _reasons(tmp_path / "out") == {
        "not_8_bit": 1, "not_an_image_name": 1, "outside_class_folders": 1, "undecodable": 1,
    }  # fmt: skip
    (wide,) = [r["image"] for r in records if r["image"].max() == 255]
    assert wide.shape == (16, 16, 3)
    assert wide[8, 0].tolist() == [0, 0, 255]  # RGB; the left half, stretched
    assert wide[8, 15].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_deep_grey_files_need_a_value_range(tmp_path, suffix):
    values = np.array([[0, 500, 1000], [2000, 4000, 65535]], np.uint16)
    path = tmp_path / f"a{suffix}"
    np.save(path, values) if suffix == ".npy" else cv2.imwrite(str(path), values)
    assert reason_of(read_image, path, 1) == "not_8_bit"
    expected = np.rint(np.clip(values / 4000, 0, 1) * 255)
    np.testing.assert_array_equal(read_image(path, 1, (0.0, 4000.0))[..., 0], expected)
    np.testing.assert_array_equal(read_image(path, 3, (0.0, 4000.0))[..., 2], expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_eight_bit_files(tmp_path, suffix):
    rgb = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    path = tmp_path / f"a{suffix}"
    np.save(path, rgb) if suffix == ".npy" else cv2.imwrite(str(path), rgb[..., ::-1])
    assert abs(read_image(path, 3).astype(int) - rgb).max() <= (6 if suffix == ".jpg" else 0)
    grey = read_image(path, 1).astype(float)[..., 0]
    assert abs(grey - rgb @ [0.299, 0.587, 0.114]).max() <= (3 if suffix == ".jpg" else 1)


def test_npy_and_tiff_in_hounsfield_units(tmp_path):
    values = np.array([[-3000.0, -1000.4], [40.5, 3000.0]], np.float32)
    np.save(tmp_path / "a.npy", values)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    for name in ("a.npy", "a.tif"):
        np.testing.assert_array_equal(read_hu(tmp_path / name, (-1024.0, 3071.0)), [[-1024, -1000], [40, 3000]])
    np.save(tmp_path / "b.npy", values.clip(0).astype(np.uint16))
    assert reason_of(read_hu, tmp_path / "b.npy", (-1024.0, 3071.0)) == "no_hu"


def test_files_that_are_not_understood(tmp_path):
    cv2.imwritemulti(str(tmp_path / "pages.tif"), [np.zeros((4, 4), np.uint8)] * 2)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "volume.npy", np.zeros((4, 4, 4), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((4, 4), np.uint8))
    raw = (tmp_path / "huge.png").read_bytes()
    (tmp_path / "huge.png").write_bytes(raw[:16] + (60000).to_bytes(4, "big") * 2 + raw[24:])
    reasons = {
        "pages.tif": "multi_page", "object.npy": "undecodable", "volume.npy": "not_an_image", "nan.npy": "not_finite",
        "empty.png": "empty_file", "text.png": "undecodable", "none.png": "unreadable", "huge.png": "memory_limit",
    }  # fmt: skip
    assert {name: reason_of(read_image, tmp_path / name, 1) for name in reasons} == reasons


def test_masks_are_resized_by_the_nearest_pixel(tmp_path):
    mask = np.random.default_rng(0).choice([0, 1, 7], (20, 10)).astype(np.uint8)
    small = fit_mask(mask, (8, 8), "pad_area")
    assert set(np.unique(small)) <= {0, 1, 7}
    assert (small[:, :2] == 0).all()  # the padding is background
    np.testing.assert_array_equal(fit_mask(mask, (20, 10), "stretch_area"), mask)
    np.testing.assert_array_equal(fit_mask(mask, (40, 20), "stretch_area"), mask.repeat(2, 0).repeat(2, 1))


def test_split_folders_are_honoured_and_val_comes_out_of_train(tmp_path):
    for split, n in (("train", 20), ("test", 6)):
        for name in ("a", "b"):
            for k in range(n):
                _png(tmp_path / "in" / split / name / f"{k}.png", 100 if split == "train" else 200)
    card = build("image_folder", tmp_path / "in", tmp_path / "out", size=16)
    assert card.splits["test"] == 12
    assert card.splits["val"] == 5
    assert card.splits["train"] == 35
    assert {int(r["image"].max()) for r in _records(tmp_path / "out", "test")} == {200}
    assert {int(r["image"].max()) for s in ("train", "val") for r in _records(tmp_path / "out", s)} == {100}
    alone = build("image_folder", tmp_path / "in", tmp_path / "alone", size=16, splits=("train",))
    assert alone.splits == {"train": 40}
    assert json.loads((tmp_path / "alone" / "build.json").read_text())["left_out"] == 12


def test_images_without_folders_are_unlabelled_and_grey_is_an_option(tmp_path):
    for k in range(5):
        _png(tmp_path / "in" / f"{k}.png", 50 * k)
    card = build(
        "image_folder", tmp_path / "in", tmp_path / "out", size=16, splits=("train",), channels=1, modality="XR"
    )
    assert card.task == "none"
    assert card.labels == ()
    assert card.stored.modality == "XR"
    assert [int(r["image"][0, 0, 0]) for r in _records(tmp_path / "out", "train")] == [0, 50, 100, 150, 200]
    assert set(_records(tmp_path / "out", "train")[0]) == {"image", "case_id", "patient"}
    with pytest.raises(UserError, match="channels"):
        build("image_folder", tmp_path / "in", tmp_path / "two", channels=2)


@pytest.mark.real_data
def test_real_photographs(real_data, tmp_path):
    card = build("image_folder", real_data / "natural" / "imagenet_mini", tmp_path / "out", size=16, splits=("train",))
    assert card.splits == {"train": 1000}
    assert len(card.labels) == 1000


def test_facts_come_from_closed_lists():
    ages = {"058Y": "50-59", "006M": "0-9", "42": "40-49", "093Y": "90+", "412": None, "": None, "Y": None, None: None}
    assert {text: age_band(text) for text in ages} == ages
    assert (age_band(58.0), age_band("58.0"), age_band(0), age_band(float("nan"))) == ("50-59", "50-59", "0-9", None)
    sexes = {"m": "M", "Female": "F", "O": "O", "": None, "Hans": None}
    assert {text: sex(text) for text in sexes} == sexes
    makers = {"SIEMENS": "siemens", "GE MEDICAL SYSTEMS": "ge", "Philips": "philips", "Praxis Dr. X": "other", "": None}
    assert {text: scanner(text) for text in makers} == makers
    views = {"PA": "PA", "ap": "AP", "LATERAL": "lateral", "LL": "lateral", "AP AXIAL": "other", "": None, None: None}
    assert {text: view(text) for text in views} == views
