"""The command line of the builder: what it refuses, what it tells."""

import os

import pytest

from data_prep.build import main
from tests.data_prep.dicom_files import source_of_patients
from tests.data_prep.refusals import refused


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of_patients(tmp_path_factory.mktemp("source") / "in", patients=18, slices=2)


def test_refusals_on_the_command_line(source, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "short").write_bytes(b"abc")
    there = f"--source={source}"
    assert 'did you mean "radnet"' in refused(capsys, "--dataset=radnett", there, out)
    assert "not a folder" in refused(capsys, "--dataset=radnet", f"--source={tmp_path / 'none'}", out)
    assert "holds no files" in refused(capsys, "--dataset=radnet", f"--source={tmp_path / 'empty'}", out)
    assert "not_dicom: 1" in refused(capsys, "--dataset=radnet", f"--source={tmp_path / 'texts'}", out)
    assert "--source is missing" in refused(capsys, "--dataset=radnet", out)
    assert "not empty" in refused(capsys, "--dataset=radnet", there, f"--out={tmp_path / 'full'}")
    assert "inside source" in refused(capsys, "--dataset=radnet", there, f"--out={source / 'out'}")
    assert 'did you mean "size"' in refused(capsys, "--dataset=radnet", there, out, "--sise=3")
    assert "unknown flag" in refused(capsys, "--dataset=radnet", there, out, "--view=finding")
    assert "too short" in refused(capsys, "--dataset=radnet", there, out, f"--salt_file={tmp_path / 'short'}")
    assert "can't be read" in refused(capsys, "--dataset=radnet", there, out, "--salt_file=/nowhere/salt")
    assert "add up to 1" in refused(capsys, "--dataset=radnet", there, out, "--split_fractions=0.5,0.2,0.2")
    assert "split_fractions" in refused(capsys, "--dataset=radnet", there, out, "--split_fractions=many")
    assert "size" in refused(capsys, "--dataset=radnet", there, out, "--size=2")
    assert "workers" in refused(capsys, "--dataset=radnet", there, out, "--workers=0")
    assert "'abc'" in refused(capsys, "--dataset=radnet", there, out, "--size=abc")
    assert "--dataset: expected one argument" in refused(capsys, there, out, "--dataset")
    assert "--help" in refused(capsys, "--help=radnet")
    assert not (tmp_path / "full" / ".build").exists()


def test_too_few_patients_tells_the_way_out(tmp_path, capsys):
    source = source_of_patients(tmp_path / "in", patients=2)
    flags = ["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}"]
    assert main(flags) == 2
    printed = capsys.readouterr()
    assert "--splits=train" in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""  # no remarks before it is clear that there will be a dataset
    assert main([*flags, "--splits=train"]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(source, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    flags = ["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'locked' / 'out'}"]
    assert "can't be written" in refused(capsys, *flags)


def test_a_file_in_the_way_of_the_folder(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    flags = ["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'file' / 'out'}"]
    assert "can't be written" in refused(capsys, *flags)


def test_help_tells_what_the_source_must_look_like(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--dataset={name}" in text for name in ("radnet", "image_folder", "chestxray14"))
    assert main(["--dataset=chestxray14", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Data_Entry_2017" in text
    assert "--view=finding" in text
    assert "--dataset=radnet\n" not in text
