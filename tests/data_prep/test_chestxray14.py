"""NIH ChestX-ray14: findings in four views, official lists, rows that do not fit."""

import csv
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep.build import build
from data_prep.datasets.chestxray14 import FINDINGS, RARITY
from data_prep.miniatures import write_miniature
from data_prep.spec import DATASETS
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_from, build_miniature, in_process, positives, refused


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(build_module, "ordered_map", in_process)


def _records(out, split):
    return list(tfds.builder_from_directory(out).as_data_source(split))


def _reasons(out):
    return json.loads((out / "build.json").read_text())["rejected"]


def _nih(root, patients=20, per_patient=3):
    """A miniature of the NIH layout with made-up patients; the last quarter is the official test list."""
    rng = np.random.default_rng(0)
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for p in range(patients):
        for k in range(per_patient):
            name = f"{p:08d}_{k:03d}.png"
            findings = "|".join(FINDINGS[i] for i in sorted({p % 14, (p + k) % 14})) if p % 2 else "No Finding"
            rows.append([name, findings, k, p, 20 + p, "MF"[p % 2], "PA"])
            lists["test_list.txt" if p >= patients * 3 // 4 else "train_val_list.txt"].append(name)
            folder = root / ("images_001/images" if p % 3 else "images_002/images")
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (24, 20)).astype(np.uint8))
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    _write_table(root, rows)
    return rows


def _write_table(root, rows):
    with (root / "Data_Entry_2017.csv").open("w", newline="") as file:
        columns = [
            "Image Index",
            "Finding Labels",
            "Follow-up #",
            "Patient ID",
            "Patient Age",
            "Patient Gender",
            "View Position",
        ]
        csv.writer(file).writerows([columns, *rows])


def test_the_miniature_in_its_views(tmp_path):
    built = build_miniature("chestxray14", tmp_path)
    assert built.card.labels == FINDINGS
    assert built.card.splits["test"] == 3
    assert positives(built.card, built.record("nih 00000001_001.png")["labels"]) == {"Cardiomegaly", "Emphysema"}
    row = built.row("nih 00000010_001.png")
    assert (row["sex"], row["age_band"], row["view"], row["split"]) == ("F", "90+", "AP", "test")
    source = tmp_path / "in"
    fifteen = build_from("chestxray14", source, tmp_path / "15", view="15")
    assert fifteen.card.labels == (*FINDINGS, "No Finding")
    assert positives(fifteen.card, fifteen.record("nih 00000002_000.png")["labels"]) == {"No Finding"}
    assert positives(fifteen.card, fifteen.record("nih 00000003_001.png")["labels"]) == {"Hernia", "Infiltration"}
    eight = build_from("chestxray14", source, tmp_path / "8", view="8")
    assert eight.card.labels == (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    )  # fmt: skip
    assert positives(eight.card, eight.record("nih 00000003_001.png")["labels"]) == {"Infiltration"}
    assert positives(eight.card, eight.record("nih 00000003_000.png")["labels"]) == set()
    assert all(record["label_mask"].all() for record in eight.records.values())
    any_finding = build_from("chestxray14", source, tmp_path / "any", view="finding")
    assert any_finding.record("nih 00000003_000.png")["label"] == 1
    assert any_finding.record("nih 00000002_000.png")["label"] == 0
    np.testing.assert_array_equal(
        built.record("nih 00000004_000.png")["image"], eight.record("nih 00000004_000.png")["image"]
    )


def test_patients_are_balanced_by_their_rarest_finding_of_the_view(tmp_path):
    source = write_miniature("chestxray14", tmp_path / "in")
    strata = {}
    for view in ("14", "15", "8"):
        spec = DATASETS.build("chestxray14", {"view": view}, source=source, size=16)
        rows = [row for candidate in spec.candidates(source) for row in spec.rows(source, candidate)]
        strata[view] = {row.identity: row.stratum for row in rows}
    assert strata["14"]["nih 00000003_001.png"] == RARITY.index("Hernia")
    assert strata["14"]["nih 00000002_000.png"] == strata["15"]["nih 00000002_000.png"] == 14
    assert strata["8"]["nih 00000003_000.png"] == strata["8"]["nih 00000002_000.png"] == 8  # none of the eight
    assert strata["8"]["nih 00000005_002.png"] == 0  # Pneumonia is the rarest of the eight
    assert strata["8"]["nih 00000009_000.png"] == 2  # Pneumothorax


def test_a_release_that_says_sex_for_gender(tmp_path, capsys):
    source = write_miniature("chestxray14", tmp_path / "in")
    path = source / "Data_Entry_2017_v2020.csv"
    table = path.read_text()
    path.write_text(table.replace("Patient Gender", "Patient Sex"))
    assert build_from("chestxray14", source, tmp_path / "out").row("nih 00000001_000.png")["sex"] == "M"
    path.write_text(table.replace("Patient Gender", "Patient"))
    assert "lacks the column Patient Gender" in refused(capsys, "chestxray14", source, tmp_path / "out2")


def test_nih_layout_multi_label(tmp_path):
    rows = _nih(tmp_path / "in")
    card = build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)
    assert card.task == "multi_label"
    assert card.labels == FINDINGS
    assert card.splits["test"] == 15
    assert sum(card.splits.values()) == 60
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    by_split = {s: {r["patient"] for r in table if r["split"] == s} for s in card.splits}
    assert len(by_split["test"]) == 5
    assert not by_split["train"] & by_split["val"]
    positives = np.zeros(14, int)
    for split in card.splits:
        for record in _records(tmp_path / "out", split):
            assert record["image"].shape == (16, 16, 1)
            assert record["labels"].dtype == np.int8
            assert (record["label_mask"] == 1).all()
            positives += record["labels"]
    expected = [sum(name in row[1].split("|") for row in rows) for name in FINDINGS]
    assert positives.tolist() == expected
    assert {row["sex"] for row in table} == {"M", "F"}
    assert {row["age_band"] for row in table} == {"20-29", "30-39"}


def test_nih_layout_any_finding(tmp_path):
    rows = _nih(tmp_path / "in")
    card = build("chestxray14", tmp_path / "in", tmp_path / "out", size=16, view="finding")
    assert card.labels == ("no finding", "finding")
    labels = [r["label"] for s in card.splits for r in _records(tmp_path / "out", s)]
    assert sum(labels) == sum(row[1] != "No Finding" for row in rows)
    with pytest.raises(UserError, match="one of 14, 15, 8, finding"):
        build("chestxray14", tmp_path / "in", tmp_path / "out2", view="16")


def test_nih_rows_that_do_not_fit(tmp_path):
    rows = _nih(tmp_path / "in")
    rows[0][1] = "Broken Arm"
    rows.append(["99999999_000.png", "No Finding", 0, 999, 40, "M", "PA"])
    _write_table(tmp_path / "in", rows[:-2] + rows[-1:])  # the last image has no row
    first = (tmp_path / "in" / "train_val_list.txt").read_text().splitlines()
    (tmp_path / "in" / "train_val_list.txt").write_text("\n".join(first[:1] + first[2:]))
    build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)
    reasons = _reasons(tmp_path / "out")
    assert {k: reasons[k] for k in ("unknown_finding", "missing_file", "not_in_lists", "not_in_table")} == {
        "unknown_finding": 1, "missing_file": 1, "not_in_lists": 1, "not_in_table": 1,
    }  # fmt: skip


def test_files_of_one_name_are_taken_only_where_they_are_equal(tmp_path):
    rows = _nih(tmp_path / "in")
    names = [row[0] for row in rows[:4]]
    first = {name: next((tmp_path / "in").glob(f"*/images/{name}")) for name in names}
    other = tmp_path / "in" / "z"
    other.mkdir()
    (other / names[0]).write_bytes(first[names[0]].read_bytes())
    cv2.imwrite(str(other / names[1]), np.zeros((24, 20), np.uint8))
    (other / names[2]).symlink_to("/nonexistent")
    other = tmp_path / "in" / "a"
    other.mkdir()
    (other / names[3]).symlink_to("/nonexistent")  # comes before the file itself
    card = build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)
    assert _reasons(tmp_path / "out") == {"duplicate": 1, "ambiguous_name": 2, "missing_file": 2}
    assert sum(card.splits.values()) == 59


def test_lists_that_are_none_are_refused_in_one_line(tmp_path, capsys):
    rows = _nih(tmp_path / "in")
    path = tmp_path / "in" / "test_list.txt"
    before = path.read_text()
    path.write_text(before + rows[0][0] + "\n")
    line = refused(capsys, "chestxray14", tmp_path / "in", tmp_path / "out")
    assert "images stand in both official lists" in line
    assert "got 1 of them" in line
    path.write_bytes(b"\xff\xfe" + before.encode("utf-16-le"))
    assert "test_list.txt can't be read" in refused(capsys, "chestxray14", tmp_path / "in", tmp_path / "out")
    path.write_text(before)
    rows[5][0] = "a\0b.png"
    _write_table(tmp_path / "in", rows)
    line = refused(capsys, "chestxray14", tmp_path / "in", tmp_path / "out")
    assert "line 7 of Data_Entry_2017.csv has a NUL byte" in line


def test_nih_refusals(tmp_path):
    rows = _nih(tmp_path / "in")
    names = (tmp_path / "in" / "train_val_list.txt").read_text()
    (tmp_path / "in" / "test_list.txt").write_text(rows[0][0] + "\n")
    (tmp_path / "in" / "train_val_list.txt").write_text("\n".join(names.splitlines()[1:]))
    with pytest.raises(UserError, match="several of the source's split lists"):
        build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)
    (tmp_path / "in" / "test_list.txt").unlink()
    with pytest.raises(UserError, match="NIH ChestX-ray14 layout"):
        build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)
    (tmp_path / "in" / "test_list.txt").touch()
    (tmp_path / "in" / "Data_Entry_2017.csv").write_text("Image Index,Finding\n")
    with pytest.raises(UserError, match="lacks the column"):
        build("chestxray14", tmp_path / "in", tmp_path / "out", size=16)


def test_rarity_orders_all_findings():
    assert sorted(RARITY) == sorted(FINDINGS)


@pytest.mark.real_data
def test_real_x_rays(real_data, tmp_path):
    source = real_data / "chestxray14_mini"
    card = build("chestxray14", source, tmp_path / "out", size=32, view="finding")
    assert card.splits["test"] == 134
    assert card.splits["train"] + card.splits["val"] == 481
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    splits = {}
    for row in table:
        splits.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(s) == 1 for s in splits.values())
    ids = set()
    with (source / "Data_Entry_2017_v2020.csv").open() as file:
        for row in csv.DictReader(file):
            ids.add(row["Patient ID"])
    assert len(splits) == len(ids)
    assert _reasons(tmp_path / "out") == {}
