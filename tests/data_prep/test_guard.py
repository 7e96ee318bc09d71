"""Files that hang, crash or ask for all memory cost themselves only."""

import json
import os
import subprocess
import sys
import time
import traceback
import zlib

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian
import pytest

from data_prep import pool
from data_prep.build import build
from data_prep.guard import Limits
from data_prep.pool import ordered_map
from data_prep.spec import DATASETS
from radnet_jax.data.card import read_card
from radnet_jax.errors import UserError
from tests.data_prep import hostile
from tests.data_prep.dicom_files import source_of_patients

if "hostile" not in DATASETS.names():
    DATASETS.register("hostile")(hostile.spec)


def _source(root, *bad, good=20):
    for name in [*(f"good{k}" for k in range(good)), *bad]:
        root.mkdir(exist_ok=True)
        (root / name).write_text("x")
    return root


def _reasons(out):
    return {k: v for k, v in json.loads((out / "build.json").read_text())["rejected"].items()}


def test_a_planted_hang_crash_and_bomb_cost_one_file_each(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("data_prep.build.FILES_PER_WORKER", 10)
    monkeypatch.setattr("data_prep.shards.RECORDS_PER_SHARD", 8)
    bad = ("crash", "hang", "bomb", "creep", "header_crash")
    source = _source(tmp_path / "in", *bad)
    card = build(
        "hostile", source, tmp_path / "out", size=8, splits=("train",), workers=2, time_limit=4.0,
        memory_limit=0.25,
    )  # fmt: skip
    assert card.splits == {"train": 20}
    assert _reasons(tmp_path / "out") == {"memory_limit": 2, "time_limit": 1, "worker_crash": 2}
    lines = (tmp_path / "out" / "rejected" / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == set(bad)
    assert "Mueller" not in capfd.readouterr().out


def test_an_error_of_the_program_is_no_rejected_file(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError") as error:
        build("hostile", _source(tmp_path / "in", "error"), tmp_path / "out", size=8, splits=("train",))
    assert "hostile.py" in str(error.value)  # where it was, but not what it said
    assert hostile.PATIENT not in "".join(traceback.format_exception(error.value))
    (tmp_path / "in" / "error").unlink()
    build("hostile", tmp_path / "in", tmp_path / "out", size=8, splits=("train",))
    assert read_card(tmp_path / "out").splits == {"train": 20}


def test_a_deflated_bomb_in_a_dicom_file(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=2)
    data = pydicom.dcmread(source / "p0" / "0.dcm")
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.SOPInstanceUID = "1.9.9.9"
    path = source / "bomb.dcm"
    data.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    raw = path.read_bytes()
    start = 132 + 12 + int.from_bytes(raw[140:144], "little")  # after the file meta
    plain = zlib.decompress(raw[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(raw[:start] + packer.compress(plain + b"\xe1\x7f\x10\x10OB\0\0" + (1 << 29).to_bytes(4, "little")))
        for _ in range(32):
            file.write(packer.compress(bytes(1 << 24)))
        file.write(packer.flush())
    assert path.stat().st_size < 5_000_000
    build("radnet", source, tmp_path / "out", size=16, splits=("train",), memory_limit=0.25)
    assert _reasons(tmp_path / "out") == {"memory_limit": 1}
    assert read_card(tmp_path / "out").splits == {"train": 4}


def test_results_keep_their_order_and_workers_are_used_again():
    with ordered_map(2, Limits()) as mapped:
        assert list(mapped(abs, range(-40, 0))) == list(range(40, 0, -1))
        assert list(mapped(str, [])) == []
    kept = {w.process.pid for w in pool._idle}
    with ordered_map(1, Limits()) as mapped:
        assert list(mapped(np.sqrt, [4.0])) == [2.0]
        (pid,) = mapped(_pid, [0])
    assert pid in kept
    assert pid != os.getpid()


def test_a_worker_that_dies_outside_of_any_file_is_reported():
    with ordered_map(1, Limits()) as mapped, pytest.raises(UserError, match="again and again"):
        list(mapped(os._exit, [1]))


def test_workers_left_at_work_are_ended():
    with ordered_map(1, Limits()) as mapped:
        next(mapped(time.sleep, [0, 30]))  # and the second task is under way
    assert all(worker.job is None for worker in pool._idle)


def test_bad_limits_are_refused(tmp_path):
    with pytest.raises(UserError, match="limits of a file"):
        build("hostile", _source(tmp_path / "in"), tmp_path / "out", size=8, time_limit=0)


def test_a_script_without_a_main_guard_can_build(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=3)
    script = tmp_path / "script.py"
    script.write_text(
        "from data_prep.build import build\n"
        f"build('radnet', {str(source)!r}, {str(tmp_path / 'out')!r}, size=16, splits=('train',))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "out").splits == {"train": 6}


def _pid(_):
    return os.getpid()
