"""Small sets with mask files: Montgomery, DRIVE, JSRT with SCR, BUSI."""

import os
from pathlib import PurePosixPath
import shutil

import numpy as np
import pytest

from data_prep.build import build
from data_prep.datasets import jsrt
import data_prep.datasets.montgomery
from data_prep.ingest.masks import image_size
from data_prep.miniatures import busi, drive, montgomery, write_miniature
from data_prep.miniatures.jsrt import drawn
from data_prep.miniatures.parts import radiograph, write_gif, write_image
from data_prep.raw import look
from data_prep.spec import DATASETS, Candidate, Reject
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_from, build_miniature
from tests.data_prep.test_dicom import reason_of


def _square(image, value=0):
    """Padded to a square as records are: the shorter side on both ends, the odd pixel at the end."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.full((side, side, *image.shape[2:]), value, image.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


# Montgomery


def test_montgomery(tmp_path):
    source = write_miniature("montgomery", tmp_path / "in")
    root = source / "MontgomerySet"
    (root / "ManualMask" / "rightMask" / "MCUCXR_0003_0.png").unlink()
    write_image(root / "ManualMask" / "leftMask" / "MCUCXR_0006_0.png", np.zeros((9, 9), np.uint8))
    (root / "ClinicalReadings" / "MCUCXR_0104_1.txt").unlink()
    found = build_from("montgomery", source, tmp_path / "out", size=56)
    planted = {}
    for number, (name, (_, _, shape, _)) in enumerate(montgomery.IMAGES.items()):
        image, masks = radiograph((0, number), *shape)
        planted[_square(image).tobytes()] = name, _square(masks["left lung"] | masks["right lung"])
    facts = {}
    for record in found.merged():
        name, lungs = planted[record["image"].tobytes()]
        np.testing.assert_array_equal(record["segmentation"], lungs)
        facts[name] = (found.card.labels[record["label"]], record["sex"], record["age_band"])
    assert facts == {
        "MCUCXR_0001_0": ("normal", "F", "20-29"),
        "MCUCXR_0002_0": ("normal", "F", "40-49"),  # the image of 12 bits
        "MCUCXR_0104_1": ("tuberculosis", None, None),
        "MCUCXR_0108_1": ("tuberculosis", "M", "10-19"),
        "MCUCXR_0113_1": ("tuberculosis", "O", "40-49"),
    }
    assert found.report["rejected"] == {"mask_mismatch": 1, "missing_mask": 1}
    assert found.card.segmentation == ("lung",)
    assert len({record["patient"] for record in found.merged()}) == 5
    shutil.rmtree(root / "ManualMask" / "rightMask")
    with pytest.raises(UserError, match="ManualMask/rightMask is missing"):
        build("montgomery", source, tmp_path / "other")
    with pytest.raises(UserError, match=r"CXR_png/MCUCXR_0001_0\.png"):
        build("montgomery", root / "ClinicalReadings", tmp_path / "other")


def test_montgomery_rejects_what_is_no_reading(tmp_path):
    source = write_miniature("montgomery", tmp_path / "in")
    readings = source / "MontgomerySet" / "ClinicalReadings"
    names = sorted(path.stem for path in readings.iterdir())[:3]
    for name in names:
        (readings / f"{name}.txt").unlink()
    (readings / f"{names[0]}.txt").mkdir()
    (readings / f"{names[1]}.txt").symlink_to("/nonexistent")
    os.mkfifo(readings / f"{names[2]}.txt")
    for name in names:
        path = f"MontgomerySet/CXR_png/{name}.png"
        assert reason_of(data_prep.datasets.montgomery._rows, source, Candidate(path)) == "unreadable_reading"


# DRIVE


@pytest.mark.parametrize(("options", "outside"), [({}, 255), ({"outside": "background", "observer": 2}, 0)])
def test_drive(tmp_path, options, outside):
    found = build_miniature("drive", tmp_path, size=52, **options)
    planted = {}
    for number in (21, 22, 23, 24, 1, 2):
        image, first, second, field = drive.eye(0, number)
        vessels = second if options and number < 20 else first
        planted[_square(image).tobytes()] = number, _square(np.where(field, vessels, outside).astype(np.uint8), outside)
    numbers = {"train": set(), "val": set(), "test": set()}
    for record in found.merged():
        number, mask = planted[record["image"].tobytes()]
        np.testing.assert_array_equal(record["segmentation"], mask)
        numbers[record["split"]].add(number)
    assert numbers["test"] == {1, 2}
    assert numbers["train"] | numbers["val"] == {21, 22, 23, 24}
    assert (found.card.stored.modality, found.card.segmentation) == ("fundus", ("vessel",))


def test_the_present_release_of_drive_has_no_test_masks(tmp_path):
    source = write_miniature("drive", tmp_path / "in")
    for folder in ("1st_manual", "2nd_manual"):
        shutil.rmtree(source / "DRIVE" / "test" / folder)
    write_gif(source / "DRIVE" / "training" / "mask" / "24_training_mask.gif", np.ones((9, 9), np.uint8))
    found = build_from("drive", source, tmp_path / "out", size=52)
    assert found.card.splits == {"train": 1, "val": 1, "test": 1}
    assert found.report["rejected"] == {"mask_mismatch": 1, "missing_mask": 2}
    for options, message in [
        ({"observer": 2}, "no test/2nd_manual"),
        ({"observer": 3}, "1 or 2"),
        ({"outside": "x"}, "unknown or background"),
    ]:
        with pytest.raises(UserError, match=message):
            build("drive", source, tmp_path / "other", **options)
    with pytest.raises(UserError, match=r"training/images/21_training\.tif"):
        build("drive", source / "DRIVE" / "training" / "mask", tmp_path / "other")


# JSRT


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    return write_miniature("jsrt", tmp_path_factory.mktemp("jsrt") / "in")


def _expected(name, parts):
    values, masks = drawn(0, name)
    image = np.rint((4095 - values[::32, ::32].astype(float)) * 255 / 4095).astype(np.uint8)
    return image, np.maximum.reduce([masks[part][::16, ::16] for part in parts])


@pytest.mark.parametrize(
    ("options", "parts", "test"),
    [
        ({}, ("left lung", "right lung"), {"JPCLN002", "JPCNN002"}),
        ({"structure": "heart", "test_fold": 1}, ("heart",), {"JPCLN001", "JPCLN003", "JPCNN001"}),
        ({"structure": "clavicles"}, ("left clavicle", "right clavicle"), {"JPCLN002", "JPCNN002"}),
    ],
)
def test_jsrt(chests, tmp_path, options, parts, test):
    found = build_from("jsrt", chests, tmp_path / "out", size=64, **options)
    names = ("JPCLN001", "JPCLN002", "JPCLN003", "JPCNN001", "JPCNN002")
    planted = {_expected(name, parts)[0].tobytes(): name for name in names}
    facts = {}
    for record in found.merged():
        name = planted[record["image"].tobytes()]
        np.testing.assert_array_equal(record["segmentation"], _expected(name, parts)[1])
        assert (record["split"] == "test") == (name in test)
        facts[name] = (found.card.labels[record["label"]], record["sex"], record["age_band"])
    assert facts == {
        "JPCLN001": ("nodule", "M", "50-59"),
        "JPCLN002": ("nodule", "F", "70-79"),
        "JPCLN003": ("nodule", "F", None),
        "JPCNN001": ("no nodule", "M", "90+"),
        "JPCNN002": ("no nodule", "F", "10-19"),
    }


def test_jsrt_masks_that_are_there_twice(tmp_path):
    source = write_miniature("jsrt", tmp_path / "in")
    folds = sorted(path for path in source.rglob("fold[12]") if path.is_dir())
    shutil.copytree(folds[0] / "masks", source / "copy" / folds[0].name / "masks")
    names = sorted(path.stem for path in (folds[0] / "masks" / "heart").iterdir())
    write_gif(source / "copy" / folds[0].name / "masks" / "right lung" / f"{names[0]}.gif", np.ones((9, 9), np.uint8))
    other = next((folds[1] / "masks" / "left lung").iterdir()).stem
    for kind in ("left lung", "right lung"):
        shutil.copy(folds[1] / "masks" / kind / f"{other}.gif", folds[0] / "masks" / kind)
    spec = DATASETS.build("jsrt", {}, source=source, size=64)
    reasons = {}
    for candidate in spec.candidates(source):
        try:
            spec.rows(source, candidate)
        except Reject as reject:
            reasons[PurePosixPath(candidate.path).stem] = reject.reason
    assert {name for name, reason in reasons.items() if reason == "ambiguous_name"} == {names[0], other}


def test_jsrt_files_that_do_not_fit(tmp_path):
    (tmp_path / "a.IMG").write_bytes(bytes(100))
    (tmp_path / "b.IMG").write_bytes(np.full(2048 * 2048, 4096, ">u2").tobytes())
    write_gif(tmp_path / "heart" / "a.gif", np.ones((512, 512), np.uint8))
    assert reason_of(lambda: jsrt._encode(tmp_path, "a.IMG", 0, size=64)) == "size_mismatch"
    assert reason_of(lambda: jsrt._encode(tmp_path, "b.IMG", 0, size=64)) == "bad_values"

    def mask(*names):
        return reason_of(lambda: jsrt._encode_mask(tmp_path, "a.IMG", "heart/a.gif", 0, names=names, size=64))

    assert mask("heart") == "mask_mismatch"
    assert mask("heart", "left lung") == "missing_mask"


def test_the_layout_of_jsrt_is_checked_at_the_start(chests, tmp_path):
    for source, options, message in [
        (chests, {"structure": "lung"}, "lungs, heart, clavicles"),
        (chests, {"test_fold": 3}, "1 or 2"),
        (chests / "All247images", {}, "no SCR masks"),
        (chests / "scratch", {}, "no JSRT images"),
    ]:
        with pytest.raises(UserError, match=message):
            build("jsrt", source, tmp_path / "out", **options)


# BUSI


def test_busi(tmp_path):
    source = write_miniature("busi", tmp_path / "in")
    root = source / "Dataset_BUSI_with_GT"
    write_image(root / "malignant" / "malignant (2)_mask.png", np.zeros((9, 9), np.uint8))
    (root / "benign" / "benign (3)_mask.png").unlink()
    found = build_from("busi", source, tmp_path / "out", size=56)
    planted = {}
    for name in busi.IMAGES:
        image, masks = busi.scan(0, name)
        lesions = np.maximum.reduce([*masks, np.zeros_like(image)])
        planted[_square(image).tobytes()] = name, _square(lesions)
    names = []
    for record in found.merged():
        name, lesions = planted[record["image"].tobytes()]
        np.testing.assert_array_equal(record["segmentation"], lesions)
        assert found.card.labels[record["label"]] == name.split(" ")[0]
        names.append(name)
    # Not the copies, nor malignant (3), which stands among the benign ones too.
    assert sorted(names) == ["benign (1)", "benign (2)", "malignant (1)", "normal (1)", "normal (2)", "normal (3)"]
    assert found.report["rejected"] == {"duplicate": 1, "mask_mismatch": 1, "missing_mask": 1, "two_classes": 2}
    with pytest.raises(UserError, match=r"benign \(1\)\.png"):
        build("busi", write_miniature("montgomery", tmp_path / "montgomery"), tmp_path / "other")


def test_busi_opens_no_pipe_and_no_dangling_link(tmp_path):
    source = write_miniature("busi", tmp_path / "in")
    folder = source / "Dataset_BUSI_with_GT" / "benign"
    (folder / "benign (7).png").symlink_to("/nonexistent")
    os.mkfifo(folder / "benign (8).png")
    found = build_from("busi", source, tmp_path / "out", size=56)
    assert found.report["rejected"] == {"duplicate": 1, "missing_file": 2, "two_classes": 2}
    assert sum(found.report["records"].values()) == 8
    os.mkfifo(source / "a pipe")
    assert reason_of(look, source / "a pipe") == reason_of(image_size, source / "a pipe") == "unreadable"
