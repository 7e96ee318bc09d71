"""ImageNet: classes and subsets, what becomes of the official validation images, odd files."""

from collections import Counter
import itertools
import shutil

import cv2
import numpy as np
import pytest

from data_prep.datasets import imagenet
from data_prep.miniatures import write_miniature
from data_prep.miniatures.imagenet import SYNSETS
from data_prep.miniatures.parts import photograph
from data_prep.photographs import val_pools
from tests.data_prep.miniature_builds import build_from, build_miniature, refused

NAMES = list(SYNSETS)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_miniature("imagenet", tmp_path_factory.mktemp("imagenet") / "in")


def test_train_folders_and_halves_of_val(tmp_path):
    built = build_miniature("imagenet", tmp_path)
    assert built.card.labels == tuple(NAMES)
    assert built.card.stored.channels == 3
    assert built.card.splits == {"train": 44, "val": 20, "test": 20}  # with four odd files
    for synset in NAMES:
        assert built.record(f"imagenet {synset}_{10 * NAMES.index(synset) + 1}")["label"] == NAMES.index(synset)
    solution = (tmp_path / "in/LOC_val_solution.csv").read_text().splitlines()[1:]
    for line in solution:
        image, prediction = line.split(",")
        record = built.record(f"imagenet {image}")
        assert NAMES[record["label"]] == prediction.split()[0]
        assert record["split"] in ("val", "test")
    for split in ("val", "test"):
        assert Counter(r["label"] for r in built.records.values() if r["split"] == split) == dict.fromkeys(range(20), 1)
    assert built.report["rejected"] == {}
    assert built.report["salt"]["kind"] == "public"  # photographs are of nobody


def test_odd_files_look_as_they_should(tmp_path):
    built = build_miniature("imagenet", tmp_path, size=16)
    drawn = photograph((0, 1000))
    expected = cv2.resize(drawn.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    png, turned, grey, cmyk = (
        built.record(f"imagenet n01440764_{k}")["image"].astype(float) for k in (2933, 700, 39, 1309)
    )
    np.testing.assert_allclose(png, expected, atol=0.51)
    assert abs(turned - expected).mean() < 4  # upright; by its quarter turn it would be another image
    assert abs(grey - expected[..., 1:2]).mean() < 4
    np.testing.assert_allclose(cmyk.mean(axis=(0, 1)), [255, 127, 0], atol=2)


def test_subsets_and_official_val_as_test(source, tmp_path):
    built = build_from("imagenet", source, tmp_path / "out", classes=100, official_val="test")
    assert built.card.labels == (NAMES[0], NAMES[10])
    assert built.card.splits["test"] == 4
    assert built.card.splits["train"] + built.card.splits["val"] == 8
    assert built.record("imagenet n01530575_100")["label"] == 1
    spec = imagenet.imagenet(source, 16, classes=10)
    assert spec.labels == (NAMES[0],)
    assert all("n01440764" in c.path or "val" in c.path for c in spec.candidates(source))


def test_val_in_synset_folders_and_all_synsets_without_a_mapping(source, tmp_path, monkeypatch, capsys):
    root = tmp_path / "in"
    base = shutil.copytree(source / "ILSVRC/Data/CLS-LOC", root)
    for line in (source / "LOC_val_solution.csv").read_text().splitlines()[1:]:
        image, prediction = line.split(",")
        folder = base / "val" / prediction.split()[0]
        folder.mkdir(exist_ok=True)
        (base / "val" / f"{image}.JPEG").rename(folder / f"{image}.JPEG")
    assert "got 20 synset folders" in refused(capsys, "imagenet", root, tmp_path / "out")
    monkeypatch.setattr(imagenet, "CLASSES", 20)
    flat = {c.path.rsplit("/")[-1]: c.entry for c in imagenet.imagenet(source, 16).candidates(source)}
    spec = imagenet.imagenet(root, 16, classes=100)
    assert spec.labels == (NAMES[0], NAMES[10])
    for candidate in imagenet.imagenet(root, 16).candidates(root):
        assert flat.pop(candidate.path.rsplit("/")[-1]) == candidate.entry  # the same halves in both layouts
    assert not flat


def test_halves_depend_on_names_alone():
    names = [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(50)]
    halves = dict(val_pools(names, "halves"))
    assert Counter(halves.values()) == {"val": 25, "test": 25}
    assert halves == dict(val_pools(reversed(names), "halves"))
    assert sum(halves[a] != halves[b] for a, b in itertools.pairwise(names)) < 40  # not simply by turns


def test_what_is_missing_is_named(source, tmp_path, capsys):
    root, out = shutil.copytree(source, tmp_path / "in"), tmp_path / "out"
    base = root / "ILSVRC/Data/CLS-LOC"
    assert "classes; got 50" in refused(capsys, "imagenet", root, out, "--classes=50")
    assert "official_val; got 'val'" in refused(capsys, "imagenet", root, out, "--official_val=val")
    mapping, solution = root / "LOC_synset_mapping.txt", root / "LOC_val_solution.csv"
    lines = mapping.read_text()
    mapping.write_text("tench\n" + lines)
    assert "line 1 of LOC_synset_mapping.txt starts with no synset" in refused(capsys, "imagenet", root, out)
    mapping.write_text(lines + lines)
    assert "not sorted" in refused(capsys, "imagenet", root, out)
    mapping.write_text(lines)
    table = solution.read_text()
    solution.write_text(table.replace("PredictionString", "Prediction"))
    assert "LOC_val_solution.csv lacks the column(s) PredictionString" in refused(capsys, "imagenet", root, out)
    solution.write_text(table.replace("n01440764 8", "n09999999 8", 1))
    (base / "train/n01443537/readme.txt").touch()
    (base / "train/n01443537/broken.JPEG").write_bytes(b"\xff\xd8\xff")
    (base / "val/ILSVRC2012_val_00000010.JPEG").unlink()
    built = build_from("imagenet", root, out)
    assert built.report["rejected"] == {
        "missing_file": 1, "not_an_image_name": 1, "undecodable": 1, "unknown_synset": 1,
    }  # fmt: skip
    shutil.rmtree(base / "train/n01443537")
    assert "train lacks the folder of 1 synset(s); got no n01443537" in refused(capsys, "imagenet", root, out)
    shutil.rmtree(base / "val")
    assert "source lacks the folder val" in refused(capsys, "imagenet", root, out)


@pytest.mark.real_data
def test_real_synset_folders(real_data, tmp_path):
    root = shutil.copytree(real_data / "natural/imagenet_mini", tmp_path / "in")
    assert (root / "train").is_dir()
    shutil.copytree(root / "train", root / "val", ignore=lambda folder, names: names[3:] if len(names) == 1000 else [])
    spec = imagenet.imagenet(root, 32)
    assert len(spec.labels) == 1000
    built = build_from("imagenet", root, tmp_path / "out", classes=10, splits=("train",))
    assert built.card.splits == {"train": 10}
