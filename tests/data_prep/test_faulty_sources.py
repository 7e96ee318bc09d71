"""Sources as archives leave them: odd names, folders that can't be read, links to nothing, copies of one instance."""

import contextlib
import dataclasses
import errno
import json
import os

import numpy as np
import pydicom
import pytest
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep.build import build, main
from data_prep.guard import watch
from data_prep.header_pass import make_plan
from data_prep.miniatures import write_miniature
from data_prep.plan import Plan
from data_prep.spec import Reject
from tests.data_prep.dicom_files import source_of_patients, write_dicom
from tests.data_prep.test_plan import _photograph, _spec

PIXELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.fixture(autouse=True)
def _in_process(monkeypatch):
    monkeypatch.setattr(build_module, "ordered_map", lambda workers, limits: contextlib.nullcontext(map))


def _built(source, out, dataset="radnet", **options):
    card = build(dataset, source, out, **{"size": 16, "splits": ("train",), "log": lambda line: None} | options)
    lines = (out / "rejected" / "rejected.jsonl").read_text().splitlines()
    return card, {line["path"]: line["reason"] for line in map(json.loads, lines)}


def test_a_folder_that_cannot_be_listed_ends_the_build_and_is_not_named(tmp_path, monkeypatch, capsys):
    source = source_of_patients(tmp_path / "in", patients=3)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("p1"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may list everything
    assert main(["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}", "--splits=train"]) == 2
    error = capsys.readouterr().err
    assert "a folder of the source can't be listed (Permission denied)" in error
    assert "p1" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("broken", [False, True])
def test_a_name_that_is_no_utf_8_is_a_name_like_any_other(tmp_path, broken):
    source = source_of_patients(tmp_path / "in", patients=2, slices=1)
    name = os.fsdecode(b"M\xfcller")
    file = write_dicom(source / name / f"{name}.dcm", PIXELS)
    data = pydicom.dcmread(file)
    for keyword in ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(data, keyword, "")  # so that it goes by its name
    data.file_meta.MediaStorageSOPInstanceUID = ""
    data.save_as(file, enforce_file_format=False)
    if broken:
        file.write_bytes(b"no DICOM" * 99)
    card, rejected = _built(source, tmp_path / "out")
    assert card.splits == {"train": 2 if broken else 3}
    assert rejected == ({f"{name}/{name}.dcm": "not_dicom"} if broken else {})
    assert len(list(tfds.builder_from_directory(tmp_path / "out").as_data_source("train"))) == card.splits["train"]


def test_a_row_that_no_table_holds_is_that_file_rejected(tmp_path):
    def row(k):
        return dataclasses.replace(_photograph(k), instance=1 << 70) if k == 3 else _photograph(k)

    spec = _spec(8, row)
    make_plan(tmp_path / "plan", spec, tmp_path, {"train": 1.0}, 0, "here", map, lambda n: None)
    with Plan(tmp_path / "plan") as plan:
        assert [(r.path, r.reason) for r in plan.rejected()] == [("3.dcm", "bad_header")]
        assert plan.sizes() == {"train": 7}


@pytest.mark.parametrize("dataset", ["radnet", "busi"])
def test_a_link_to_nothing_is_an_unreadable_file(tmp_path, dataset):
    if dataset == "radnet":
        source = source_of_patients(tmp_path / "in", patients=2)
        link = source / "p0" / "gone.dcm"
    else:
        source = write_miniature(dataset, tmp_path / "in")
        image = next(p for p in sorted(source.rglob("*.png")) if "mask" not in p.name)
        link = image.with_name("benign (4711).png")
    link.symlink_to(tmp_path / "nowhere.png")
    _, rejected = _built(source, tmp_path / "out", dataset)
    assert rejected[str(link.relative_to(source))] in ("unreadable", "missing_file")


def test_an_error_of_the_system_is_of_the_file_that_is_read(tmp_path):
    with pytest.raises(Reject) as error, watch(0):
        (tmp_path / "nowhere").read_bytes()
    assert error.value.reason == "unreadable"
    with pytest.raises(OSError, match="open files"), watch(0):
        raise OSError(errno.EMFILE, "Too many open files")


def test_an_error_of_the_source_is_not_blamed_on_the_folder_that_is_written(tmp_path, monkeypatch, capsys):
    source = source_of_patients(tmp_path / "in", patients=2)

    def candidates(folder):
        raise OSError(errno.EIO, "Input/output error", str(folder / "Mueller.csv"))

    monkeypatch.setattr(build_module, "make_plan", lambda path, spec, folder, *rest: candidates(folder))
    assert main(["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}", "--splits=train"]) == 2
    error = capsys.readouterr().err
    assert "a file of the source can't be read (Input/output error)" in error
    assert "Mueller" not in error
    assert "written" not in error


def test_of_two_copies_the_whole_one_is_kept(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=2, slices=1)
    good = (source / "p0" / "0.dcm").read_bytes()
    (source / "p0" / "0.dcm").rename(source / "p0" / "b_good.dcm")
    (source / "p0" / "a_trunc.dcm").write_bytes(good[:-100])
    card, rejected = _built(source, tmp_path / "out")
    assert card.splits == {"train": 2}
    assert rejected == {"p0/a_trunc.dcm": "truncated"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "duplicate"),
        ({"PatientID": ""}, "duplicate"),  # a copy that has lost its patient
        ({"PatientID": "P2"}, "uid_conflict"),
        ({"SeriesInstanceUID": "1.2.3.9"}, "uid_conflict"),
        ({"ImagePositionPatient": [0, 0, 5]}, "uid_conflict"),
        ({"Rows": 8}, "uid_conflict"),
    ],
)
def test_one_uid_for_two_images_is_no_duplicate(tmp_path, changed, reason):
    write_dicom(tmp_path / "in" / "a.dcm", PIXELS, SOPInstanceUID="1.2.3.4")
    write_dicom(tmp_path / "in" / "b.dcm", PIXELS, SOPInstanceUID="1.2.3.4", **changed)
    card, rejected = _built(tmp_path / "in", tmp_path / "out")
    assert card.splits == {"train": 1}
    assert rejected == {"b.dcm": reason}
