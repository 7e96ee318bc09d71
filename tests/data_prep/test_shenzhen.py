"""The Shenzhen set: labels in names, sex and age in clinical readings typed by hand."""

import os
import shutil

import cv2
import numpy as np

from data_prep.miniatures import write_miniature
from data_prep.miniatures.shenzhen import READINGS
from tests.data_prep.miniature_builds import build_from, build_miniature, refused

FACTS = {
    "CHNCXR_0001_0": ("M", "40-49"), "CHNCXR_0002_0": ("F", "60-69"), "CHNCXR_0003_0": ("F", "30-39"),
    "CHNCXR_0115_0": ("M", "0-9"), "CHNCXR_0202_0": ("F", "0-9"), "CHNCXR_0203_0": ("M", "90+"),
    "CHNCXR_0326_0": (None, None), "CHNCXR_0327_1": ("M", "30-39"), "CHNCXR_0328_1": ("F", "20-29"),
    "CHNCXR_0329_1": ("M", "50-59"), "CHNCXR_0330_1": ("F", "20-29"), "CHNCXR_0662_1": ("M", "20-29"),
}  # fmt: skip


def test_labels_and_facts(tmp_path):
    assert set(FACTS) == set(READINGS)
    built = build_miniature("shenzhen", tmp_path)
    assert built.card.labels == ("normal", "tuberculosis")
    assert len(built.records) == 12
    assert len({row["patient"] for row in built.rows.values()}) == 12
    for name, (sex, age_band) in FACTS.items():
        record, row = built.record(f"shenzhen {name}"), built.row(f"shenzhen {name}")
        assert record["label"] == (name >= "CHNCXR_0327")
        assert (row["sex"], row["age_band"]) == (sex, age_band)
    for split in ("train", "val", "test"):
        assert {r["label"] for r in built.records.values() if r["split"] == split} == {0, 1}


def test_colour_files_are_brought_to_grey(tmp_path):
    built = build_miniature("shenzhen", tmp_path, size=32)
    source = cv2.imread(str(tmp_path / "in/ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png"), cv2.IMREAD_UNCHANGED)
    assert source.shape == (64, 66, 3)
    padded = np.pad(source[..., 0].astype(np.float32), ((1, 1), (0, 0)))
    expected = cv2.resize(padded, (32, 32), interpolation=cv2.INTER_AREA)
    image = built.record("shenzhen CHNCXR_0001_0")["image"]
    assert image.shape == (32, 32, 1)
    np.testing.assert_allclose(image[..., 0], expected, atol=0.51)


def test_the_folder_under_its_other_name_and_foreign_files(tmp_path, capsys):
    source = write_miniature("shenzhen", tmp_path / "in")
    base = (source / "ChinaSet_AllFiles").rename(source / "Shenzhen-Hospital-CXR-Set")
    shutil.copy(base / "CXR_png/CHNCXR_0001_0.png", base / "CXR_png/MCUCXR_0001_0.png")
    (base / "ClinicalReadings/CHNCXR_0002_0.txt").unlink()
    (base / "ClinicalReadings/CHNCXR_0003_0.txt").unlink()
    os.mkfifo(base / "ClinicalReadings/CHNCXR_0003_0.txt")
    built = build_from("shenzhen", source, tmp_path / "out")
    assert built.report["rejected"] == {"not_a_shenzhen_name": 1, "unreadable_reading": 1}
    assert built.row("shenzhen CHNCXR_0002_0")["sex"] is None
    shutil.rmtree(base / "ClinicalReadings")
    assert "source lacks ClinicalReadings" in refused(capsys, "shenzhen", base, tmp_path / "out2")
    shutil.rmtree(base / "CXR_png")
    (base / "notes.txt").touch()
    assert "source lacks CXR_png" in refused(capsys, "shenzhen", source, tmp_path / "out2")
