"""`--doctor`: one line for each thing, a way to mend what does not work, an exit code, and an end in any case."""

import os
import re
import subprocess
import sys
import time

import pytest

from radnet_jax import codecs, doctor
from tests.test_distributed import free_port
from tests.tiny import ROOT


def command(*flags, limits="true", **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("RADNET_JAX_SALT_FILE", "JAX_COMPILATION_CACHE_DIR")}
    shell = f'{limits}; exec {sys.executable} -m radnet_jax.main --doctor "$@"'
    return subprocess.Popen(
        ["bash", "-c", shell, "bash", *flags],
        env=env | {"PYTHONPATH": str(ROOT)} | environment,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(started):
    out, errors = started.communicate(timeout=250)
    found = [line.split(None, 1) for line in out.splitlines()]
    assert {level for level, _ in found} <= {"ok", "warning", "problem"}, out
    assert "Traceback" not in errors
    return found


def test_a_sound_machine(tmp_path):
    secret = tmp_path / "salt"
    secret.write_text("0" * 32)
    secret.chmod(0o600)
    started = command(f"--workdir={tmp_path}/new/run", RADNET_JAX_SALT_FILE=str(secret), JAX_NUM_CPU_DEVICES="3")
    found = lines(started)
    assert started.returncode == 0
    text = "\n".join(what for _, what in found)
    assert "3 x cpu (cpu)" in text
    assert "codecs: JPEG lossless, JPEG-LS, JPEG 2000, HTJ2K, RLE, PNG, JPEG" in text
    assert "warning" not in {level for level, what in found if what.startswith(("salt", "file locks", "packages"))}
    assert "0" * 32 not in text
    assert not list(tmp_path.glob(".radnet*"))  # nothing is left behind, and no folder made
    assert not (tmp_path / "new").exists()


def test_what_does_not_work_is_named_and_the_exit_code_is_1(tmp_path):
    (tmp_path / "file").write_text("")
    started = command(
        f"--workdir={tmp_path}/file/run",
        limits="ulimit -n 256",
        RADNET_JAX_SALT_FILE=str(tmp_path / "nowhere"),
        JAX_PLATFORMS="cuda",
    )
    *found, verdict = lines(started)
    problems = {what.split(":")[0]: what for level, what in found if level == "problem"}
    assert started.returncode == 1
    assert verdict[0] == "problem"
    assert "4 problem(s)" in verdict[1]
    assert sorted(problems) == ["devices", f"folder {tmp_path}/file", "open files", "salt"]
    assert "at most 256" in problems["open files"]
    assert "JAX_PLATFORMS=cuda" in problems["devices"]


def test_several_processes_find_each_other(tmp_path):
    flags = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", f"--workdir={tmp_path}"]
    started = [command(*flags, f"--process_id={i}", JAX_NUM_CPU_DEVICES="2") for i in range(2)]
    for number, process in enumerate(started):
        text = "\n".join(what for _, what in lines(process))
        assert process.returncode == 0, text
        assert "4 x cpu" in text
        assert f"this is {number} of 2, with 2 device(s)" in text


def test_devices_that_do_not_answer_are_left_alone():
    sleeping = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(100)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    began = time.monotonic()
    (found,) = doctor.devices(sleeping, timeout=0.2)
    assert found.level == "problem"
    assert "no answer" in found.what
    assert time.monotonic() - began < 5
    assert sleeping.wait(timeout=5) < 0


@pytest.mark.parametrize(
    ("stated", "message"),
    [("numpy>=99.1", "package numpy 2.* is older than 99.1"), ("no-such-thing", "no-such-thing is not installed")],
)
def test_packages_that_are_old_or_missing(tmp_path, monkeypatch, stated, message):
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[project]\ndependencies = ["jax>=0.10", "{stated}"]\n')
    monkeypatch.setattr(doctor, "_PYPROJECT", project)
    first, last = doctor.packages()
    assert first.level == "problem"
    assert re.search(message, first.what)
    assert stated in first.fix
    assert "2 as needed" in last.what


def test_a_codec_that_does_not_work(monkeypatch):
    monkeypatch.setattr(codecs, "_JPEG_LOSSLESS", codecs._JPEG_LOSSLESS[:60] + b"\0" * 20 + b"\xff\xd9")
    found = list(doctor.image_codecs())
    assert [f.level for f in found] == ["problem", "ok"]
    assert "JPEG lossless" in found[0].what
    assert "JPEG lossless" not in found[1].what


def test_a_check_that_fails_itself_is_a_problem(tmp_path, monkeypatch, capsys):
    def broken():
        raise ZeroDivisionError("of all things")
        yield

    monkeypatch.setattr(doctor, "salt", broken)
    monkeypatch.setattr(doctor, "_ask_devices", lambda launch: None)
    monkeypatch.setattr(doctor, "devices", lambda answer, timeout: iter(()))
    assert doctor.run(tmp_path, (None, None, None)) == 1
    assert "problem salt: could not be looked at (ZeroDivisionError: of all things)" in capsys.readouterr().out
