"""What a power cut, an update or a careless copy leaves in the folder of a dataset."""

import contextlib
import json

import pytest

from data_prep import build as build_module
from data_prep import manifest, shards
from data_prep.build import build, main
from radnet_jax.data.card import read_card
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import source_of_patients


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of_patients(tmp_path_factory.mktemp("source") / "in", patients=12)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(build_module, "ordered_map", lambda workers, limits: contextlib.nullcontext(map))
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 8)


def _built(source, out, **options):
    return build("radnet", source, out, **{"size": 16, "splits": ("train",)} | options)


def _stopped(source, out, monkeypatch, **options):
    """A build that was killed after its first shard; returns that shard."""
    done = []

    def dying(task):
        if done:
            raise KeyboardInterrupt
        done.append(task)
        return shards.write_shard(task)

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            _built(source, out, **options)
    (shard,) = out.glob("*.array_record-*")
    return shard


def _half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("cut", [_half, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["plan.sqlite", "*.array_record-*.json"])
def test_half_a_plan_or_mark_is_none(source, tmp_path, monkeypatch, name, cut):
    whole = _built(source, tmp_path / "whole")
    _stopped(source, tmp_path / "out", monkeypatch)
    (path,) = (tmp_path / "out" / ".build").glob(name)
    cut(path)
    assert _built(source, tmp_path / "out") == whole


@pytest.mark.parametrize("change", ["version", "limit", "nothing"])
def test_records_of_another_version_or_limit_are_not_gone_on_with(source, tmp_path, monkeypatch, change):
    shard = _stopped(source, tmp_path / "out", monkeypatch)
    before = shard.stat().st_mtime_ns
    if change == "version":
        real = manifest.versions
        monkeypatch.setattr(manifest, "versions", lambda project: real(project) | {"pydicom": "0.0.1"})
    _built(source, tmp_path / "out", **({"time_limit": 90.0} if change == "limit" else {}))
    assert (shard.stat().st_mtime_ns == before) == (change == "nothing")


@pytest.mark.parametrize("name", ["*.array_record-00001-*", "manifest.parquet", "features.json", "checksums.json"])
@pytest.mark.parametrize("cut", [_half, lambda path: path.unlink()])
def test_a_finished_dataset_that_has_lost_a_file_is_told(source, tmp_path, name, cut):
    out = tmp_path / "out"
    _built(source, out)
    (path,) = out.glob(name)
    cut(path)
    with pytest.raises(UserError, match=r"lost files|readable checksums\.json") as error:
        _built(source, out)
    assert path.name in str(error.value)
    assert "build it anew" in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"request": [], "salt": [], "rejected": 0}', "half"])
def test_a_build_json_of_something_else_is_one_line(source, tmp_path, text):
    _built(source, tmp_path / "out")
    (tmp_path / "out" / "build.json").write_text(text)
    with pytest.raises(UserError, match=r"readable build\.json"):
        _built(source, tmp_path / "out")


def test_files_that_other_limits_would_take_are_told(source, tmp_path):
    out, lines = tmp_path / "out", []
    _built(source, out)
    path = out / "build.json"
    data = json.loads(path.read_text())
    data["rejected"] = {"time_limit": 2, "worker_crash": 1, "not_dicom": 7}
    path.write_text(json.dumps(data))
    sums = json.loads((out / "checksums.json").read_text())
    sums["build.json"]["size"] = path.stat().st_size
    (out / "checksums.json").write_text(json.dumps(sums))
    _built(source, out, log=lines.append)
    assert not any("limits" in line for line in lines)
    _built(source, out, log=lines.append, time_limit=90.0)
    (line,) = (line for line in lines if "limits" in line)
    assert "3 files" in line
    assert "build anew" in line
    assert read_card(out).splits["train"] == 24


@pytest.mark.parametrize("limit", ["inf", "nan", "1e12", "1e-9", "0.002", "-1"])
@pytest.mark.parametrize("flag", ["memory_limit", "time_limit"])
def test_limits_out_of_range_are_one_line(source, tmp_path, capsys, flag, limit):
    assert main(["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}", f"--{flag}={limit}"]) == 2
    error = capsys.readouterr().err
    assert flag in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
