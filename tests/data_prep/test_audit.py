"""The audit: leaks of every kind are planted, and exactly these are found."""

import csv
import json
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.audit import audit
from data_prep.audit.__main__ import main
from data_prep.audit.units import open_datasets, read_units
from data_prep.build import build
from data_prep.hashing import SALT_VARIABLE
from data_prep.phantom import draw_slice
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import write_dicom

SIZE = 64
REGIONS = ("head/neck", "thorax", "abdomen", "extremities", "pelvis/hip", "spine")


def _slice(patient, k=0):
    return draw_slice(REGIONS[patient % 6], (k + 0.5) / 3, 128, (17, patient), k)[0]


def _windowed(hu, centre=40.0, width=400.0):
    return np.rint(255 * np.clip((hu - centre + width / 2) / width, 0, 1)).astype(np.uint8)


def _write_slice(folder, patient, k, name=None):
    name = name or f"p{patient}"
    write_dicom(
        folder / name / f"{k}.dcm", (_slice(patient, k) + 1024).astype(np.uint16), PatientID=name,
        StudyInstanceUID=f"1.5.{abs(hash(name)) % 10**8}", SeriesInstanceUID=f"1.6.{abs(hash(name)) % 10**8}",
        SOPInstanceUID=f"1.7.{abs(hash((str(folder), name))) % 10**8}.{k}", ImagePositionPatient=[0, 0, 5.0 * k],
    )  # fmt: skip


def _ct(folder, patients, out, **options):
    for patient in patients:
        for k in range(2):
            _write_slice(folder, patient, k)
    build("radnet", folder, out, size=SIZE, log=lambda line: None, **options)
    return out


def _xr(folder, images, out, **options):
    """images: {file name: (array or file to copy, patient, split)}; JPEG by the name's ending, of quality 75."""
    folder.mkdir(parents=True)
    rows = [("image", "patient", "split")]
    for name, (image, patient, split) in images.items():
        if isinstance(image, np.ndarray):
            cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 75] if name.endswith("jpg") else [])
        else:
            shutil.copy(image, folder / name)
        rows.append((name, patient, split))
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    options = {"modality": "XR", "size": SIZE, "splits": ("train", "test")} | options
    build("table", folder / "t.csv", out, log=lambda line: None, **options)
    return out


def _grey(patient):
    return _windowed(_slice(patient), -100, 1600)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A pretraining corpus: CT of twelve patients, all in train."""
    folder = tmp_path_factory.mktemp("corpus")
    return _ct(folder / "in", range(12), folder / "corpus", splits=("train",))


def _quiet(folders, **options):
    return audit(folders, log=lambda line: None, **options)


def _kinds(result):
    return [(r["kind"], r["dataset_a"], r["split_a"], r["dataset_b"], r["split_b"]) for r in result.pairs.to_pylist()]


def test_a_clean_pair_of_datasets(corpus, tmp_path, capsys):
    task = _ct(tmp_path / "in", range(20, 38), tmp_path / "task")
    result = _quiet([corpus, task])
    assert result.clean
    assert len(result.compared) == 5  # train of the corpus with val and test, and the three pairs of the task
    assert main([str(corpus), str(task)]) == 0
    assert "clean" in capsys.readouterr().out


def test_the_same_patient_in_two_datasets(corpus, tmp_path, capsys):
    folder = tmp_path / "in"
    for k in range(4):
        _write_slice(folder, 3, 10 + k)  # other slices of a patient of the corpus
    task = _ct(folder, range(20, 38), tmp_path / "task")
    names = {u.split: u for u in read_units(open_datasets([task])[0])}
    known = {u.split: set(u.patients.tolist()) for u in names.values()}
    (leaked,) = set(read_units(open_datasets([corpus])[0])[0].patients.tolist()) & set().union(*known.values())
    where = next(split for split, patients in known.items() if leaked in patients)
    result = _quiet([corpus, task])
    if where == "train":
        assert result.clean  # two training splits may share a patient
        return
    (row,) = result.pairs.to_pylist()
    assert (row["kind"], row["split_a"], row["split_b"]) == ("patient", "train", where)
    assert (row["records_a"], row["records_b"]) == (2, 4)
    assert main([str(corpus), str(task)]) == 1
    assert row["patient"] in capsys.readouterr().out


def test_the_same_patient_in_train_and_test_of_two_datasets(tmp_path):
    shared = {f"{k}.png": (_grey(k), f"p{k}", "train") for k in range(4)}
    one = _xr(tmp_path / "a", shared, tmp_path / "one", splits=("train",))
    other = {
        "x.png": (_grey(50), "p2", "test"),
        "y.png": (_grey(51), "p9", "test"),
        "z.png": (_grey(52), "p1", "train"),
    }
    two = _xr(tmp_path / "b", other, tmp_path / "two")
    (row,) = _quiet([one, two]).pairs.to_pylist()  # p1 is in both training splits, which is no leak
    assert (row["kind"], row["split_a"], row["split_b"], row["patient"] is not None) == (
        "patient",
        "train",
        "test",
        True,
    )
    assert (row["index_a"], row["index_b"]) == (2, 0)
    one_manifest = pq.read_table(one / "manifest.parquet").to_pylist()
    assert (row["patient"], row["case_id_a"]) == (one_manifest[2]["patient"], one_manifest[2]["case_id"])


def test_files_and_copies_across_splits_of_one_dataset(tmp_path):
    images = {f"{k}.png": (_grey(k), f"p{k}", "train") for k in range(8)}
    images |= {f"t{k}.png": (_grey(60 + k), f"q{k}", "test") for k in range(4)}
    images["copy.png"] = (tmp_path / "in" / "1.png", "other-1", "test")  # the same bytes
    images["small.png"] = (cv2.resize(_grey(2), (90, 90), interpolation=cv2.INTER_AREA), "other-2", "test")
    images["again.jpg"] = (_grey(3), "other-3", "test")
    images["bright.png"] = (np.rint(255 * (_grey(4) / 255) ** 0.8).astype(np.uint8), "other-4", "test")
    images["mirrored.png"] = (_grey(5)[:, ::-1], "other-5", "test")
    images["inverted.png"] = (255 - _grey(6), "other-6", "test")
    images["cut.png"] = (_grey(7)[2:-2, 2:-2], "other-7", "test")
    out = _xr(tmp_path / "in", images, tmp_path / "out")
    result = _quiet([out])
    names = list(images)
    order = {split: [n for n in names if images[n][2] == split] for split in ("train", "test")}
    found = {
        (order["train"][r["index_a"]], order["test"][r["index_b"]]): (r["kind"], r["turn"])
        for r in result.pairs.to_pylist()
    }
    assert found == {
        ("1.png", "copy.png"): ("file", None),
        ("2.png", "small.png"): ("image", ""),
        ("3.png", "again.jpg"): ("image", ""),
        ("4.png", "bright.png"): ("image", ""),
        ("5.png", "mirrored.png"): ("image", "mirrored"),
        ("6.png", "inverted.png"): ("image", "inverted"),
        ("7.png", "cut.png"): ("image", ""),
    }
    assert result.counts() == {"patient": 0, "file": 1, "image": 6}


@pytest.mark.parametrize("window", [(40.0, 400.0), (-600.0, 1500.0), (400.0, 1800.0)], ids=["soft", "lung", "bone"])
def test_a_ct_slice_and_its_picture_under_a_window(corpus, tmp_path, window):
    """A slice of the corpus exported as PNG, turned as by NIfTI tools, in the test split of an image dataset."""
    images = {"a.png": (_grey(70), "a", "train"), "b.png": (_grey(71), "b", "test")}
    leaks = (0, 3, 6)
    images |= {f"{p}.png": (_windowed(_slice(p), *window).T[::-1], f"l{p}", "test") for p in leaks}
    rows = _quiet([corpus, _xr(tmp_path / "in", images, tmp_path / "pictures")]).pairs.to_pylist()
    assert {(r["kind"], r["dataset_b"], r["split_b"]) for r in rows} == {("image", "pictures", "test")}
    assert {r["index_b"] - 1 for r in rows} == {0, 1, 2}  # a neighbouring slice may look the same
    assert len({r["turn"] for r in rows}) == 1
    assert rows[0]["turn"]


def test_neighbouring_slices_in_one_split_are_no_leak(tmp_path):
    folder = tmp_path / "in"
    for k in range(6):
        _write_slice(folder, 1, 10 + k)  # slices that look alike, of one series
    for patient in range(30, 48):
        _write_slice(folder, patient, 0)
    build("radnet", folder, tmp_path / "out", size=SIZE, log=lambda line: None)
    assert _quiet([tmp_path / "out"]).clean


def test_different_salts(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "salt").write_bytes(b"quite another secret of 32 bytes")
    monkeypatch.setenv(SALT_VARIABLE, str(tmp_path / "salt"))
    task = _ct(tmp_path / "in", [3, *range(20, 38)], tmp_path / "task", splits=("val", "test"))
    assert main([str(corpus), str(task)]) == 2
    said = capsys.readouterr()
    assert "different salts" in said.err
    assert said.err.count("\n") == 1
    assert main([str(corpus), str(task), "--images_only"]) == 1
    said = capsys.readouterr().out
    assert "only their images were compared" in said
    assert "2 same images" in said  # both slices of patient 3, with no hash of it in common


def test_what_is_written(corpus, tmp_path, capsys):
    images = {"a.png": (_windowed(_slice(2)), "a", "test"), "b.png": (_grey(71), "b", "train")}
    task = _xr(tmp_path / "in", images, tmp_path / "task")
    assert main([str(corpus), str(task), f"--out={tmp_path / 'deep' / 'audit'}"]) == 1
    data = json.loads((tmp_path / "deep" / "audit" / "audit.json").read_text())
    assert data["leaks"] == {"patient": 0, "file": 0, "image": 1}
    assert not data["clean"]
    table = pq.read_table(tmp_path / "deep" / "audit" / "audit.parquet")
    (row,) = table.to_pylist()
    manifest = {r["case_id"] for r in pq.read_table(task / "manifest.parquet").to_pylist()}
    assert row["case_id_b"] in manifest
    page = (tmp_path / "deep" / "audit" / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert str(tmp_path) not in page
    assert "audit.html" in capsys.readouterr().out


def _refused(capsys, *flags):
    assert main([str(f) for f in flags]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("data_prep.audit: ")
    return said


def test_wrong_usage_is_one_line(corpus, tmp_path, capsys):
    assert "no dataset to audit" in _refused(capsys)
    assert "no dataset in" in _refused(capsys, tmp_path)
    assert "given twice" in _refused(capsys, corpus, corpus)
    assert "nothing to compare" in _refused(capsys, corpus)
    assert "distance" in _refused(capsys, corpus, "--distance=40")
    assert "invalid int" in _refused(capsys, corpus, "--distance=x")
    assert "likeness" in _refused(capsys, corpus, "--likeness=0")
    assert "unrecognized" in _refused(capsys, corpus, "--lik=1")
    (tmp_path / "file").write_text("")
    assert "can't be made" in _refused(capsys, corpus, f"--out={tmp_path / 'file'}")


def test_a_dataset_of_an_older_version_is_refused(corpus, tmp_path):
    old = shutil.copytree(corpus, tmp_path / "old")
    table = pq.read_table(old / "manifest.parquet")
    pq.write_table(table.drop_columns(["phash"]), old / "manifest.parquet")
    with pytest.raises(UserError, match="build it again"):
        _quiet([old])
    pq.write_table(table.slice(1), old / "manifest.parquet")
    with pytest.raises(UserError, match="does not fit"):
        _quiet([old])


def test_records_that_are_not_there(corpus, tmp_path):
    images = {"a.png": (_windowed(_slice(2)), "a", "test"), "b.png": (_grey(71), "b", "train")}
    task = _xr(tmp_path / "in", images, tmp_path / "task")
    next(task.glob("*-test.array_record-*")).unlink()
    with pytest.raises(UserError, match="records of task test are missing; got 0 of 1 files"):
        _quiet([corpus, task])


def test_a_dataset_in_an_object_store(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RADNET_JAX_CACHE", str(tmp_path / "cache"))
    images = {"a.png": (_windowed(_slice(2)), "a", "test"), "b.png": (_grey(71), "b", "train")}
    task = _xr(tmp_path / "in", images, tmp_path / "task")
    here, there = _quiet([corpus, task]), _quiet([corpus, f"local://{task}"])
    assert here.pairs == there.pairs
    assert here.datasets == there.datasets
    assert here.pairs.num_rows == 1


def test_images_too_small_to_compare(tmp_path):
    images = {"a.png": (_grey(1), "a", "train"), "b.png": (_grey(2), "b", "test")}
    with pytest.raises(UserError, match="too small"):
        _quiet([_xr(tmp_path / "in", images, tmp_path / "out", size=8)])


def test_numbers_of_a_unit_are_those_of_the_manifest(tmp_path):
    images = {f"{k}.png": (_grey(k), f"p{k}", ("train", "test")[k % 2]) for k in range(6)}
    images["plain.png"] = (np.full((30, 20), 9, np.uint8), "q", "test")
    out = _xr(tmp_path / "in", images, tmp_path / "out")
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    for unit in read_units(open_datasets([out])[0]):
        mine = [r for r in rows if r["split"] == unit.split]
        assert unit.patients.tolist() == [int(r["patient"][:16], 16) for r in mine]
        assert unit.sources.tolist() == [int(r["source"][:16], 16) for r in mine]
        assert [h if ok else None for h, ok in zip(unit.hashes.tolist(), unit.hashed)] == [r["phash"] for r in mine]
        assert unit.sizes.tolist() == [[r["rows"], r["columns"]] for r in mine]
        places = [len(mine) - 1, 0, 1]
        assert unit.cells("case_id", places) == [mine[p]["case_id"] for p in places]
