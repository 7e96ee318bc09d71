"""SIIM-ACR pneumothorax: run lengths down the columns, several rows of an image, the two tables of the challenge."""

import shutil

import numpy as np
import pytest

from data_prep.build import build
from data_prep.datasets.siim_acr import decode_runs
from data_prep.miniatures import write_miniature
from data_prep.miniatures.siim_acr import IMAGES, encode_runs, image_and_masks, uid
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_from, build_miniature
from tests.data_prep.test_dicom import reason_of

PLACES = {image_and_masks(0, number)[0].tobytes(): number for number in IMAGES}


def _check(found, numbers):
    assert sorted(PLACES[record["image"].tobytes()] for record in found.merged()) == sorted(numbers)
    for record in found.merged():
        image, masks = image_and_masks(0, PLACES[record["image"].tobytes()])
        expected = np.zeros_like(image) if not masks else np.maximum.reduce(masks)
        np.testing.assert_array_equal(record["segmentation"], expected)
        assert record["label"] == int(bool(masks))


def test_stage_2_has_its_own_test_split(tmp_path):
    found = build_miniature("siim_acr", tmp_path, size=64)
    _check(found, IMAGES)
    assert {PLACES[record["image"].tobytes()] for record in found.merged("test")} == {6, 7}
    facts = {PLACES[r["image"].tobytes()]: (r["sex"], r["age_band"]) for r in found.merged()}
    assert facts[0] == ("M", "20-29")
    assert facts[1] == ("F", "90+")
    assert (found.card.labels, found.card.segmentation) == (("no pneumothorax", "pneumothorax"), ("pneumothorax",))
    right = [r for r in found.merged() if PLACES[r["image"].tobytes()] == 4]
    assert right[0]["segmentation"][:, :32].any()  # the right lung is on the left of the image,
    assert not right[0]["segmentation"][:, 32:].any()  # so that rows and columns were not mixed up


def test_stage_1_labels_its_training_images_only(tmp_path):
    source = write_miniature("siim_acr", tmp_path / "in")
    (source / "stage_2_train.csv").unlink()
    next((source / "dicom-images-train").rglob(f"{uid(3)}.dcm")).unlink()
    shutil.copy(next((source / "dicom-images-train").rglob(f"{uid(2)}.dcm")), source)  # a second time
    found = build_from("siim_acr", source, tmp_path / "out", size=64)
    _check(found, [0, 1, 2, 4, 5])
    assert set(found.card.splits) == {"train", "val", "test"}
    assert found.report["rejected"] == {"duplicate": 1, "missing_file": 1, "not_in_table": 2}


def _as_published(runs, width, height):
    """The decoder that came with the challenge's data, by its description: positions on a flat array, transposed."""
    mask = np.zeros(width * height)
    numbers = [int(word) for word in runs.split()]
    position = 0
    for start, length in zip(numbers[0::2], numbers[1::2]):
        position += start
        mask[position : position + length] = 1
        position += length
    return mask.reshape(width, height).T


def test_run_lengths():
    np.testing.assert_array_equal(decode_runs("1 2 3 1", (4, 3)), [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    rng = np.random.default_rng(0)
    for shape in [(7, 5), (5, 7), (1, 9), (64, 64)]:
        mask = (rng.random(shape) < 0.4).astype(np.uint8)
        mask[-1, -1] = 1
        runs = encode_runs(mask)
        np.testing.assert_array_equal(decode_runs(runs, shape), mask)
        np.testing.assert_array_equal(_as_published(runs, shape[1], shape[0]), mask)


@pytest.mark.parametrize("runs", ["", "1", "1 2 3", "1 -2", "a b", "0 13", "10 2 1 1", "1.5 2", f"{2**70} 1"])
def test_runs_that_are_none(runs):
    assert reason_of(decode_runs, runs, (4, 3)) == "bad_mask"


def test_a_bad_row_costs_its_image_only(tmp_path):
    source = write_miniature("siim_acr", tmp_path / "in")
    table = source / "stage_2_train.csv"
    lines = table.read_text().splitlines()
    lines = [f"{uid(0)},5 999999" if line.startswith(f"{uid(0)},") else line for line in lines]
    table.write_text("\n".join([*lines, f"{uid(4)},-1"]) + "\n")  # and one with and without a pneumothorax
    found = build_from("siim_acr", source, tmp_path / "out", size=64)
    _check(found, [1, 2, 3, 5, 6, 7])
    assert found.report["rejected"] == {"bad_mask": 2}


def test_the_table_is_checked_at_the_start(tmp_path):
    source = write_miniature("siim_acr", tmp_path / "in")
    table = source / "stage_2_train.csv"
    table.write_text(table.read_text().replace("EncodedPixels", "Mask"))
    with pytest.raises(UserError, match=r"stage_2_train.csv lacks the column\(s\) EncodedPixels"):
        build("siim_acr", source, tmp_path / "out")
    table.unlink()
    (source / "train-rle.csv").unlink()
    with pytest.raises(UserError, match=r"train-rle\.csv is missing"):
        build("siim_acr", source, tmp_path / "out")
