"""The manifest's line of each record, and the sums over them in build.json."""

import contextlib
import csv
import hashlib
import json
import types

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_prep import manifest as manifest_module
from data_prep import shards
from data_prep.build import build
from data_prep.hashing import pseudonym
from data_prep.phash import phash
from data_prep.tally import BINS
from radnet_jax.data.card import read_card
from tests.data_prep.dicom_files import source_of_patients, write_dicom, write_enhanced


def _built(dataset, source, out, **options):
    options = {"size": 32, "splits": ("train",), "log": lambda line: None} | options
    build(dataset, source, out, **options)
    return pq.read_table(out / "manifest.parquet").to_pylist(), json.loads((out / "build.json").read_text())


def test_a_dicom_file_in_the_manifest(tmp_path, secret):
    rng = np.random.default_rng(0)
    for k in range(3):
        write_dicom(
            tmp_path / "in" / f"{k}.dcm", rng.integers(0, 2000, (40, 48)).astype(np.uint16), SOPInstanceUID=f"1.{k}",
            ImagePositionPatient=[0, 0, 2 * k], PixelSpacing=["0.5", "0.75"], SliceThickness="2",
        )  # fmt: skip
    rows, report = _built("radnet", tmp_path / "in", tmp_path / "out")
    images = [r["image"] for r in tfds.builder_from_directory(tmp_path / "out").as_data_source("train")]
    stored = read_card(tmp_path / "out").stored
    for k, (row, image) in enumerate(zip(rows, images, strict=True)):
        content = (tmp_path / "in" / f"{k}.dcm").read_bytes()
        assert row["source"] == pseudonym(secret.read_bytes(), "source", hashlib.sha256(content).hexdigest())
        assert row["phash"] == phash(image, stored, (40, 48))
        assert (row["rows"], row["columns"], row["thickness"]) == (40, 48, 2.0)
        assert (row["row_spacing"], row["column_spacing"]) == (0.5, 0.75)
        assert (row["slice"], row["position"], row["index"]) == (k, 2.0 * k, k)
    split = report["summary"]["train"]
    assert (split["records"], split["patients"], split["series"], split["plain"]) == (3, 1, 1, 0)
    assert split["size"] == {
        "known": 3, "distinct": 1, "smallest": [40, 48], "median": [40, 48], "largest": [40, 48],
        "commonest": [[[40, 48], 3]],
    }  # fmt: skip
    assert split["spacing"]["commonest"] == [[[0.5, 0.75], 3]]


def test_no_hash_in_the_manifest_is_that_of_the_file_itself(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=6)
    rows, _ = _built("radnet", source, tmp_path / "out")
    plain = {hashlib.sha256(path.read_bytes()).hexdigest()[:20] for path in source.rglob("*.dcm")}
    assert len({row["source"] for row in rows}) == len(plain) == 12
    assert not plain & {row["source"] for row in rows}


def _counted(function, calls):
    return lambda *arguments: calls.append(arguments) or function(*arguments)


def test_frames_share_the_hash_of_their_file_which_is_read_once(tmp_path, monkeypatch):
    write_enhanced(
        tmp_path / "in" / "a", np.arange(3 * 256, dtype=np.uint16).reshape(3, 16, 16), [(0, 0, k) for k in range(3)]
    )
    calls = []
    counted = {name: _counted(getattr(hashlib, name), calls) for name in ("file_digest", "sha256")}
    monkeypatch.setattr("data_prep.raw.hashlib", types.SimpleNamespace(**counted))
    monkeypatch.setattr("data_prep.build.ordered_map", lambda workers, limits: contextlib.nullcontext(map))
    rows, _ = _built("radnet", tmp_path / "in", tmp_path / "out")
    assert len({row["source"] for row in rows}) == 1
    assert len({row["case_id"] for row in rows}) == 3
    assert len(calls) == 1


def test_plain_images_have_no_hash_and_unknown_geometry_is_empty(tmp_path):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.full((20, 30), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "in" / "b.png"), np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8))
    rows, report = _built("image_folder", tmp_path / "in", tmp_path / "out")
    assert [row["phash"] is None for row in rows] == [True, False]
    assert {(row["rows"], row["columns"], row["row_spacing"], row["thickness"]) for row in rows} == {
        (20, 30, None, None)
    }
    split = report["summary"]["train"]
    assert split["plain"] == 1
    assert split["spacing"] == {
        "known": 0, "distinct": 0, "smallest": None, "median": None, "largest": None, "commonest": [],
    }  # fmt: skip


def test_histogram_without_the_padding_that_the_build_added(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(4):
        write_dicom(
            tmp_path / "in" / f"{k}.dcm", rng.integers(0, 4096, (32, 64)).astype(np.uint16), SOPInstanceUID=f"1.{k}"
        )
    _, report = _built("radnet", tmp_path / "in", tmp_path / "out", size=64)
    images = np.stack([r["image"] for r in tfds.builder_from_directory(tmp_path / "out").as_data_source("train")])
    content = images[:, 16:48]
    assert (images[:, :16] == -1024).all()
    expected, _ = np.histogram(content, bins=BINS, range=(-1024, 3072))
    assert report["pixels"]["train"]["histogram"] == [expected.tolist()]


def test_sums_over_masks_labels_and_facts(tmp_path):
    (tmp_path / "in").mkdir()
    lines = [("image", "mask", "labels")]
    for k in range(4):
        image = np.random.default_rng(k).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[:k, :8] = 1
        mask[31, 31] = 2 * (k == 3)
        cv2.imwrite(str(tmp_path / "in" / f"{k}.png"), image)
        cv2.imwrite(str(tmp_path / "in" / f"m{k}.png"), mask)
        lines.append((f"{k}.png", f"m{k}.png", ("a=1|b=0", "a=1", "a=0|b=1", "b=1")[k]))
    with (tmp_path / "in" / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    options = {"modality": "photo", "channels": 3, "mask_labels": "lung,heart"}
    _, report = _built("table", tmp_path / "in" / "t.csv", tmp_path / "out", **options)
    pixels, split = report["pixels"]["train"], report["summary"]["train"]
    assert pixels["masks"] == [[3, 8 * (1 + 2 + 3)], [1, 1]]
    assert [sum(channel) for channel in pixels["histogram"]] == [4 * 32 * 32] * 3
    assert split["labels"] == {"a": 2, "b": 2}
    assert split["known"] == {"a": 3, "b": 3}


@pytest.mark.parametrize("records_per_shard", [3, 1000])
def test_shards_and_batches_leave_no_mark_on_the_manifest(tmp_path, monkeypatch, records_per_shard):
    source = source_of_patients(tmp_path / "in", patients=6)
    whole, report = _built("radnet", source, tmp_path / "whole")
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", records_per_shard)
    monkeypatch.setattr(manifest_module, "_BATCH", 5)
    rows, again = _built("radnet", source, tmp_path / "out")
    assert rows == whole
    assert again["summary"] == report["summary"]
    assert again["pixels"] == report["pixels"]
