"""The builder: atomic, restartable, salt-proof, and clear about what it refuses."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep import shards
from data_prep import source as source_module
from data_prep.build import build, main
from data_prep.phantom import write_ct
from radnet_jax.data.card import read_card
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import source_of_patients, write_dicom
from tests.data_prep.refusals import refused


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of_patients(tmp_path_factory.mktemp("source") / "in", patients=18, slices=2)


@pytest.fixture
def salt_file(tmp_path):
    path = tmp_path / "salt"
    path.write_bytes(b"a secret of thirty-two bytes ...")
    return path


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@contextlib.contextmanager
def _in_process(workers, limits):
    """The pool's map without its processes, so that what a test replaces in this process counts."""
    yield map


def _stop_after(monkeypatch, shard_count):
    """The builder dies once it has finished that many shards."""
    real, done = shards.write_shard, []

    def dying(task):
        if len(done) == shard_count:
            raise KeyboardInterrupt
        done.append(task)
        return real(task)

    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    monkeypatch.setattr(build_module, "write_shard", dying)
    return done


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(source, tmp_path, monkeypatch, salt_file):
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 8)
    build("radnet", source, tmp_path / "whole", size=16, salt_file=salt_file)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build("radnet", source, out, size=16, salt_file=salt_file)
    assert not (out / "card.json").exists()
    assert (out / ".build").stat().st_mode & 0o777 == 0o700
    first = next(out.glob("*.array_record-00000-*"))
    before = first.stat().st_mtime_ns
    build("radnet", source, out, size=16, salt_file=salt_file)
    assert first.stat().st_mtime_ns == before  # the finished shard was not written again
    assert _files(out) == _files(tmp_path / "whole")
    assert len(list(out.glob("radnet-train.array_record-*"))) == 2


def test_a_shard_that_is_not_whole_is_written_again(source, tmp_path, monkeypatch, salt_file):
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 8)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build("radnet", source, out, size=16, salt_file=salt_file)
    first = next(out.glob("*.array_record-00000-*"))
    first.write_bytes(first.read_bytes()[:1000])
    build("radnet", source, out, size=16, salt_file=salt_file)
    assert len(list(tfds.builder_from_directory(out).as_data_source("train"))) == read_card(out).splits["train"]


def test_without_a_salt_the_build_of_patients_is_refused_and_tells_how_to_make_one(
    source, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("RADNET_JAX_SALT_FILE")
    flags = ["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}", "--size=16"]
    error = refused(capsys, *flags)
    assert "head -c 32 /dev/urandom | base64 > FILE" in error
    assert "--salt_file" in error
    assert "RADNET_JAX_SALT_FILE" in error
    assert not (tmp_path / "out").exists()
    salt = tmp_path / "salt"
    subprocess.run(f"head -c 32 /dev/urandom | base64 > {salt}", shell=True, check=True)
    assert main([*flags, f"--salt_file={salt}"]) == 0
    assert main(flags) == 0  # finished: there is no id left to hash
    assert "already built" in capsys.readouterr().out
    assert main([*flags, "--seed=1"]) == 2


def test_the_salt_is_nowhere_in_the_dataset(source, tmp_path, salt_file):
    build("radnet", source, tmp_path / "out", size=16, salt_file=salt_file)
    salt = salt_file.read_bytes()
    forms = (salt, salt.hex().encode(), base64.b64encode(salt), hashlib.sha256(salt).hexdigest().encode())
    assert not any(form in content for content in _files(tmp_path / "out").values() for form in forms)


def test_generated_images_have_the_same_ids_with_and_without_a_salt(tmp_path, monkeypatch, salt_file):
    phantoms = write_ct(tmp_path / "in", patients_per_region=1, slices=2, image_size=32)
    lines, tables = [], []
    for name, file in (("with", str(salt_file)), ("without", "")):
        monkeypatch.setenv("RADNET_JAX_SALT_FILE", file)
        card = build("radnet", phantoms, tmp_path / name, size=16, log=lines.append)
        tables.append(pq.read_table(tmp_path / name / "manifest.parquet"))
        monkeypatch.setenv("RADNET_JAX_SALT_FILE", "" if file else str(salt_file))
        assert build("radnet", phantoms, tmp_path / name, size=16, log=lines.append) == card  # a study goes on
    assert tables[0] == tables[1]
    assert sum("public salt" in line for line in lines) == 1  # a salt that is passed over is said
    build("radnet", phantoms, tmp_path / "flag", size=16, salt_file=salt_file, log=lines.append)
    assert pq.read_table(tmp_path / "flag" / "manifest.parquet") == tables[0]
    assert sum("public salt" in line for line in lines) == 2


def _left_empty(folder):
    (folder / ".generated").write_text("")


def _with_another_file(folder):
    write_dicom(folder / "PHANTOM-0001" / "real.dcm", np.zeros((32, 32), np.uint16))


@pytest.mark.parametrize("change", [_left_empty, _with_another_file])
def test_a_marker_that_is_not_about_the_files_turns_no_salt_off(tmp_path, monkeypatch, capsys, salt_file, change):
    phantoms = write_ct(tmp_path / "in", patients_per_region=1, slices=2, image_size=32)
    change(phantoms)
    flags = ["--dataset=radnet", f"--source={phantoms}", f"--out={tmp_path / 'out'}", "--splits=train", "--size=16"]
    monkeypatch.delenv("RADNET_JAX_SALT_FILE")
    error = refused(capsys, *flags)
    assert "no salt" in error
    assert "about other files" in error
    assert main([*flags, f"--salt_file={salt_file}"]) == 0
    assert "about other files" in capsys.readouterr().out
    assert not read_card(tmp_path / "out").generated
    assert json.loads((tmp_path / "out" / "build.json").read_text())["salt"]["kind"] == "file"


def test_splits_and_fingerprint_do_not_depend_on_the_salt(source, tmp_path, salt_file):
    one = build("radnet", source, tmp_path / "one", size=16, salt_file=salt_file)
    two = build("radnet", source, tmp_path / "two", size=16)
    assert dataclasses.replace(one, splits_sha256="") == dataclasses.replace(two, splits_sha256="")
    first, second = (pq.read_table(tmp_path / n / "manifest.parquet").to_pylist() for n in ("one", "two"))
    keys = ("split", "index", "slice", "label")
    assert [[r[k] for k in keys] for r in first] == [[r[k] for k in keys] for r in second]
    assert not {r["patient"] for r in first} & {r["patient"] for r in second}
    images = [
        [r["image"].tobytes() for r in tfds.builder_from_directory(tmp_path / n).as_data_source("test")]
        for n in ("one", "two")
    ]
    assert images[0] == images[1]
    assert salt_file.read_text() not in str(_files(tmp_path / "one"))


def test_one_salt_matches_patients_over_datasets_and_the_environment_names_it(source, tmp_path, salt_file, monkeypatch):
    monkeypatch.setenv("RADNET_JAX_SALT_FILE", str(salt_file))
    build("radnet", source, tmp_path / "one", size=16)
    build("radnet", source, tmp_path / "two", size=24, splits=("train",))
    first, second = (
        set(pq.read_table(tmp_path / n / "manifest.parquet")["patient"].to_pylist()) for n in ("one", "two")
    )
    assert first == second


def test_another_seed_gives_another_division(source, tmp_path):
    build("radnet", source, tmp_path / "one", size=16)
    build("radnet", source, tmp_path / "two", size=16, seed=1)
    assert read_card(tmp_path / "one").fingerprint != read_card(tmp_path / "two").fingerprint


def test_processes_give_the_same_bytes(source, tmp_path, monkeypatch, salt_file):
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 8)
    monkeypatch.setattr(build_module, "FILES_PER_WORKER", 10)
    build("radnet", source, tmp_path / "one", size=16, salt_file=salt_file)
    build("radnet", source, tmp_path / "two", size=16, salt_file=salt_file, workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_a_finished_build_is_left_alone_and_never_overwritten(source, tmp_path, salt_file):
    out, lines = tmp_path / "out", []
    card = build("radnet", source, out, size=16)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert build("radnet", source, out, size=16, log=lines.append) == card
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert "already built" in lines[0]
    for changed in ({"size": 24}, {"size": 16, "seed": 1}, {"size": 16, "splits": ("train",)}):
        with pytest.raises(UserError, match="built differently"):
            build("radnet", source, out, **changed)
    with pytest.raises(UserError, match="another salt"):
        build("radnet", source, out, size=16, salt_file=salt_file)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


def test_a_changed_source_is_noticed(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=6)
    build("radnet", source, tmp_path / "out", size=16)
    (source / "p0" / "0.dcm").unlink()
    with pytest.raises(UserError, match="source files changed"):
        build("radnet", source, tmp_path / "out", size=16)


def test_a_copy_of_the_source_is_the_same_source(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=6)
    build("radnet", source, tmp_path / "out", size=16)
    copy = shutil.copytree(source, tmp_path / "copy")
    for path in copy.rglob("*.dcm"):
        os.utime(path, (1, 1))
    lines = []
    build("radnet", copy, tmp_path / "out", size=16, log=lines.append)
    assert "already built" in lines[0]


def test_content_counts_in_a_small_source_and_names_lengths_and_times_in_a_large_one(tmp_path, monkeypatch):
    source = source_of_patients(tmp_path / "in", patients=6)
    file = source / "p0" / "0.dcm"
    build("radnet", source, tmp_path / "out", size=16)
    monkeypatch.setattr(source_module, "SMALL", 1000)
    build("radnet", source, tmp_path / "large", size=16)
    lines = []
    build("radnet", source, tmp_path / "large", size=16, log=lines.append)
    assert not any("other times" in line for line in lines)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    build("radnet", source, tmp_path / "large", size=16, log=lines.append)
    assert sum("other times" in line for line in lines) == 1  # an edit, or a copy: the user is told
    file.write_bytes(content + b"\0\0")
    with pytest.raises(UserError, match="source files changed"):
        build("radnet", source, tmp_path / "large", size=16)
    file.write_bytes(content)
    monkeypatch.undo()
    with pytest.raises(UserError, match="source files changed"):
        build("radnet", source, tmp_path / "out", size=16)


def test_an_unfinished_build_of_a_large_source_that_was_edited_is_begun_anew(tmp_path, monkeypatch):
    source = source_of_patients(tmp_path / "in", patients=12)
    monkeypatch.setattr(source_module, "SMALL", 1000)
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build("radnet", source, tmp_path / "out", size=16)
    for path in source.rglob("*.dcm"):
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    build("radnet", source, tmp_path / "out", size=16)
    build("radnet", source, tmp_path / "edited", size=16)
    assert read_card(tmp_path / "out").fingerprint == read_card(tmp_path / "edited").fingerprint


def test_an_unfinished_build_of_other_options_is_begun_anew(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build("radnet", source, tmp_path / "out", size=16)
    card = build("radnet", source, tmp_path / "out", size=24, splits=("train",))
    assert card.stored.size == (24, 24)
    assert {p.name.split(".")[0] for p in (tmp_path / "out").glob("*.array_record-*")} == {"radnet-train"}


@pytest.mark.parametrize(
    ("message", "code"), [("No space left on device; at byte 0", "is full"), ("Broken pipe", "can't be written")]
)
def test_a_disk_that_takes_no_more_is_one_line(source, tmp_path, monkeypatch, message, code):
    class FullDisk:
        def __init__(self, path, options):
            open(path, "w").close()

        def write(self, record):
            pass

        def close(self):
            raise RuntimeError(f"write() failed: {message}")  # as array_record says it

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "ordered_map", _in_process)
        patch.setattr(shards.array_record_module, "ArrayRecordWriter", FullDisk)
        with pytest.raises(UserError, match=code):
            build("radnet", source, tmp_path / "out", size=16)
    assert not (tmp_path / "out" / "card.json").exists()
    build("radnet", source, tmp_path / "out", size=16)  # after space was made
    assert (tmp_path / "out" / "card.json").exists()


def test_only_one_build_writes_a_folder(source, tmp_path, monkeypatch):
    real, seen = shards.write_shard, []

    def nested(task):
        if not seen:
            seen.append(task)
            with pytest.raises(UserError, match="another build"):
                build("radnet", source, tmp_path / "out", size=16)
        return real(task)

    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    monkeypatch.setattr(build_module, "write_shard", nested)
    build("radnet", source, tmp_path / "out", size=16)
    assert seen


def test_build_json_holds_counts_options_and_versions(source, tmp_path):
    build("radnet", source, tmp_path / "out", size=16)
    data = json.loads((tmp_path / "out" / "build.json").read_text())
    assert data["records"] == dict(read_card(tmp_path / "out").splits)
    assert sum(data["labels"]["train"].values()) == data["records"]["train"]
    assert data["salt"]["kind"] == "file"
    assert set(data["versions"]) >= {"radnet_jax", "numpy", "pydicom"}
    assert str(source) not in json.dumps(data)
