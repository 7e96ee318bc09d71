"""The command that measures a GPU: parts fail, hang and end by themselves, and what they printed is kept."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from tests.tiny import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"
HANGS = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(json.dumps({"child": child.pid}), flush=True)
print('{"half": ', end="", flush=True)
time.sleep(100)
"""


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_part_that_hangs_is_ended_with_all_that_it_has_started_and_its_lines_are_kept(gpu):
    began = time.monotonic()
    told = gpu.run([sys.executable, "-c", HANGS], limit=2)
    assert time.monotonic() - began < 20
    assert told["ended"] == "not done after 2 s"
    (record,) = told["records"]
    stat = Path("/proc", str(record["child"]), "stat")  # it is somebody else's to be waited for
    for _ in range(100):
        if not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("a child of the part lives on")


def test_a_part_that_fails_says_why(gpu):
    told = gpu.run([sys.executable, "-c", "print('{\"a\": 1}'); raise ValueError('no memory')"], limit=60)
    assert told["ended"] == "exit code 1"
    assert told["said"] == "ValueError: no memory"
    assert told["records"] == [{"a": 1}]


def test_a_side_that_is_not_ready_in_time_is_left_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from peers import sides

    (tmp_path / "slow.py").write_text("import time\ntime.sleep(100)\n")
    monkeypatch.setattr(sides, "_BEGAN", time.monotonic())
    side = sides.Side([sys.executable, str(tmp_path / "slow.py")], dict(os.environ), sides._time_left(1))
    assert side.hello == {"absent": "not ready after 1 s"}
    side.close()
    assert side.process.returncode


def test_the_parts_fit_into_nine_minutes(gpu):
    assert sum(gpu.PARTS[name].seconds for name in gpu.DEFAULT) <= gpu.LIMIT - 10  # to see the devices
    assert gpu.LIMIT < 9 * 60


def start(*flags, **environment):
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(
        [sys.executable, SCRIPT, *flags], env=env, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_machine_without_a_gpu_is_refused_in_one_line(tmp_path):
    done = start(f"--out={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "jax sees no GPU" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_environment_for_the_peers_that_is_not_there_is_refused_in_one_line():
    done = start("--smoke", "--peer_python=/nowhere/bin/python")
    assert done.returncode == 2
    assert done.stderr == (
        "error: /nowhere/bin/python can't be asked; got FileNotFoundError; "
        "python -m radnet_jax.main --doctor says more\n"
    )


@pytest.mark.slow
def test_each_part_runs_at_the_tiny_size_and_the_file_holds_them(gpu, tmp_path):
    done = start("--smoke", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr + done.stdout
    (path,) = tmp_path.iterdir()
    told = json.loads(path.read_text())
    assert told["preset"] == "smoke"
    assert told["versions"]["jax"]
    assert list(told["parts"]) == gpu.DEFAULT
    records = {name: part["records"] for name, part in told["parts"].items()}
    assert records["bootstrap"][0]["largest_difference"] < 1e-12
    assert {r["recipe"] for r in records["views"]} == {"ct", "chest_xray", "simclr"}
    assert records["end_to_end"][-1]["of_synthetic"] > 0
    assert {r["part"] for r in records["step"] if r.get("side") == "ours" and "part" in r} == {"step", "views"}
    assert {r["side"] for r in records["deterministic"] if "part" in r} == {"ours", "ours_deterministic"}
    assert any(r.get("side") == "ours" and "images_per_s" in r for r in records["segmentation"])
    done = start("--smoke", f"--out={tmp_path}", "--part=bootstrap")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(path.read_text())["parts"]) == gpu.DEFAULT
