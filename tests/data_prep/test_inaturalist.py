"""iNaturalist 2021: categories by folder and annotation."""

from collections import Counter
import json
import shutil

import pytest

from data_prep.miniatures import write_miniature
from tests.data_prep.miniature_builds import build_from, build_miniature, refused

EARTHWORM = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_miniature("inaturalist", tmp_path_factory.mktemp("inaturalist") / "in")


def test_categories(tmp_path):
    built = build_miniature("inaturalist", tmp_path)
    assert built.card.labels[0] == EARTHWORM
    assert [label[:5] for label in built.card.labels] == ["00000", "00001", "00002", "00003"]
    assert built.card.splits == {"train": 20, "val": 8, "test": 8}
    for split, count in (("train", 5), ("val", 2), ("test", 2)):
        counts = Counter(r["label"] for r in built.records.values() if r["split"] == split)
        assert counts == dict.fromkeys(range(4), count)
    for part in ("train", "val"):
        data = json.loads((tmp_path / "in" / f"{part}.json").read_text())
        for image, annotation in zip(data["images"], data["annotations"], strict=True):
            folder, name = image["file_name"].removesuffix(".jpg").split("/")[1:]
            record = built.record(f"inaturalist {folder}/{name}")
            assert record["label"] == annotation["category_id"]
            assert (record["split"] == "train") == (part == "train")


def test_the_mini_set_and_official_val_as_test(source, tmp_path):
    built = build_from("inaturalist", source, tmp_path / "out", train="mini", official_val="test")
    assert built.card.splits["test"] == 16
    assert built.card.splits["train"] + built.card.splits["val"] == 8


def test_what_is_missing_is_named(source, tmp_path, capsys):
    root, out = shutil.copytree(source, tmp_path / "in"), tmp_path / "out"
    text = (root / "val.json").read_text()
    assert "train; got 'small'" in refused(capsys, "inaturalist", root, out, "--train=small")
    (root / "val.json").write_text(text.replace('"categories"', '"classes"'))
    assert "val.json can't be read; got KeyError: 'categories'" in refused(capsys, "inaturalist", root, out)
    (root / "val.json").write_text(text[:-9])
    assert "val.json can't be read; got JSONDecodeError" in refused(capsys, "inaturalist", root, out)
    (root / "val.json").write_text(text.replace('{"id": 3, "name"', '{"id": 4, "name"'))
    assert "ids of the categories are not 0, 1, 2" in refused(capsys, "inaturalist", root, out)
    (root / "val.json").write_text(text)
    (root / "train/99999_Animalia_nova").mkdir()
    shutil.copy(next((root / "train" / EARTHWORM).iterdir()), root / "train/99999_Animalia_nova/new.jpg")
    next((root / "val" / EARTHWORM).iterdir()).unlink()
    built = build_from("inaturalist", root, out)
    assert built.report["rejected"] == {"missing_file": 1, "unknown_category": 1}
    (root / "val.json").unlink()
    assert "source lacks val.json" in refused(capsys, "inaturalist", root, out)
    shutil.rmtree(root / "train")
    assert "source lacks the folder train" in refused(capsys, "inaturalist", root, out)
