"""Flags of the compiler: it knows each of them, the user's own win, and what makes a GPU exact outlasts a resume."""

import os
import subprocess
import sys

from absl import logging
import pytest

from radnet_jax import checkpoint, records, sharding, xla_flags
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.parts import assemble
from tests import tiny

EXACT = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


@pytest.mark.parametrize("flag", [*xla_flags.GPU, *xla_flags.DETERMINISTIC], ids=lambda flag: flag.name)
def test_the_compiler_knows_each_flag(flag):
    assert xla_flags.accepted([flag])
    assert flag.why
    assert flag.source


def test_an_unknown_flag_would_end_the_process_and_is_found_out():
    assert not xla_flags.accepted([xla_flags.Flag("xla_gpu_no_such_thing", "true", "", "")])


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"JAX_PLATFORMS": "cpu"}, "cpu"),
        ({"JAX_PLATFORMS": "cuda"}, "gpu"),
        ({"JAX_PLATFORMS": "rocm,cpu"}, "gpu"),
        ({"JAX_PLATFORMS": "tpu"}, "tpu"),
        ({"JAX_PLATFORMS": "other"}, "cpu"),
    ],
)
def test_the_platform_is_the_one_that_jax_is_asked_for(environment, kind):
    assert xla_flags.platform(environment) == kind


def test_a_gpu_needs_a_driver_and_the_plugin(monkeypatch):
    class Plugin:
        name = "xla_cuda12"

    monkeypatch.setattr(xla_flags.importlib.metadata, "entry_points", lambda group: [Plugin])
    monkeypatch.setattr(xla_flags, "tpu_chips", lambda: False)
    for driver, kind in ((True, "gpu"), (False, "cpu")):
        monkeypatch.setattr(xla_flags, "nvidia_driver", lambda driver=driver: driver)
        assert xla_flags.platform({}) == kind


@pytest.fixture
def all_known(monkeypatch):
    monkeypatch.setattr(xla_flags, "accepted", lambda flags: True)


@pytest.mark.usefixtures("all_known")
@pytest.mark.parametrize(
    ("kind", "deterministic", "given", "expected"),
    [
        ("cpu", False, "", ""),
        ("cpu", True, "", EXACT),
        ("gpu", False, "", "--xla_gpu_enable_latency_hiding_scheduler=true"),
        ("gpu", True, "", f"--xla_gpu_enable_latency_hiding_scheduler=true {EXACT}"),
        (
            "gpu",
            False,
            "--xla_a=1 --xla_gpu_enable_latency_hiding_scheduler=false",
            "--xla_a=1 --xla_gpu_enable_latency_hiding_scheduler=false",
        ),
        ("gpu", True, f"--xla_gpu_enable_latency_hiding_scheduler {EXACT}", None),
        ("gpu", False, "flags.txt", None),
        ("tpu", False, "", ""),
    ],
)
def test_flags_are_added_to_those_of_the_user(kind, deterministic, given, expected):
    environment = {"JAX_PLATFORMS": kind} | ({"XLA_FLAGS": given} if given else {})
    xla_flags.set_flags(environment, deterministic=deterministic)
    assert environment.get("XLA_FLAGS", "") == (given if expected is None else expected)
    assert environment.get("LIBTPU_INIT_ARGS", "") == ""  # libtpu is not installed here


@pytest.mark.parametrize(
    ("version", "given", "count"), [("0.0.42.1", "", 1), ("0.0.42.1", "=false", 1), ("0.0.43", "", 0)]
)
def test_a_tpu_gets_flags_of_libraries_that_they_were_tried_with(monkeypatch, version, given, count):
    monkeypatch.setattr(xla_flags, "_version", lambda package: version)
    name = xla_flags.TPU[0].name
    environment = {"JAX_PLATFORMS": "tpu"} | ({"LIBTPU_INIT_ARGS": f"--{name}{given}"} if given else {})
    xla_flags.set_flags(environment, deterministic=False)
    assert environment.get("LIBTPU_INIT_ARGS", "").count(name) == count
    assert "XLA_FLAGS" not in environment


@pytest.mark.parametrize("given", ["--xla_gpu_deterministic_ops=false", "--xla_gpu_autotune_level=4", "flags.txt"])
def test_a_contradiction_is_refused(given):
    with pytest.raises(UserError, match="XLA_FLAGS says otherwise"):
        xla_flags.set_flags({"JAX_PLATFORMS": "cuda", "XLA_FLAGS": given}, deterministic=True)


def test_a_compiler_that_knows_them_no_more(monkeypatch):
    monkeypatch.setattr(xla_flags, "accepted", lambda flags: False)
    environment = {"JAX_PLATFORMS": "cuda"}
    xla_flags.set_flags(environment, deterministic=False)
    assert "XLA_FLAGS" not in environment
    with pytest.raises(UserError, match="does not know its flags"):
        xla_flags.set_flags(environment, deterministic=True)


def test_what_is_recorded_holds_no_paths():
    environment = {"XLA_FLAGS": f"{EXACT} --xla_dump_to=/home/name --xla_b", "LIBTPU_INIT_ARGS": "--xla_c=2"}
    found = xla_flags.in_effect(environment)
    assert found == ["xla_b=true", "xla_c=2", "xla_gpu_autotune_level=0", "xla_gpu_deterministic_ops=true"]
    assert xla_flags.is_deterministic(found)
    assert not xla_flags.is_deterministic(found[:-1])


def test_importing_the_command_line_starts_no_compiler():
    code = "import sys; from radnet_jax import main; sys.exit('jax' in sys.modules or 'jaxlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, check=False).returncode == 0


def test_reading_a_config_imports_no_jax():
    """The flags are set after that."""
    code = """
import pathlib, sys
from radnet_jax import main
files = [path for path in sorted(pathlib.Path("configs").rglob("*.py")) if "def get_config" in path.read_text()]
for path in files:
    main.load_config(path)
    if "jax" in sys.modules:
        sys.exit(str(path))
sys.exit(len(files) < 50)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def run(dataset, workdir, *flags):
    command = [sys.executable, "-m", "radnet_jax.main", "--config=configs/pretrain/simclr.py:smoke,size=24", *flags]
    command += [f"--config.data.dir={dataset}", f"--workdir={workdir}", "--config.total_steps=3"]
    command += ["--config.backbone.name=resnet10", "--config.backbone.base_width=4", "--config.checkpoint.every=1"]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.run(command, cwd=tiny.ROOT, env=env, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.slow
def test_a_deterministic_run_goes_on_as_one_only(ct_dataset, tmp_path):
    done = run(ct_dataset, tmp_path, "--deterministic")
    assert done.returncode == 0, done.stderr
    assert xla_flags.is_deterministic(ledger.read_run(tmp_path).record["topology"]["xla_flags"])
    (tmp_path / "run.json").unlink()  # as if it had been killed before its end
    without = run(ct_dataset, tmp_path)
    assert without.returncode == 2
    assert "made with --deterministic" in without.stderr
    assert checkpoint.latest_folder(tmp_path).name == "3"  # it was not taken for a damaged one
    again = run(ct_dataset, tmp_path, "--deterministic")
    assert again.returncode == 0, again.stderr


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda message, *args: said.append(message % args))
    return said


def test_a_run_that_goes_on_elsewhere_or_becomes_exact_is_told(ct_dataset, tmp_path, monkeypatch, warnings):
    config = tiny.config("configs/pretrain/simclr.py", "smoke,size=24", ct_dataset)
    monkeypatch.setenv("XLA_FLAGS", "")
    parts = assemble(config, sharding.make_mesh(8))
    meta = records.checkpoint_meta(config, parts)
    records.check_checkpoint(meta, config, parts, tmp_path)
    assert not warnings
    records.check_checkpoint(meta, config, assemble(config, sharding.make_mesh(2)), tmp_path)
    assert "devices 8, now 2" in warnings.pop()
    monkeypatch.setenv("XLA_FLAGS", EXACT)
    records.check_checkpoint(meta, config, parts, tmp_path)
    assert "until this checkpoint the run was not --deterministic" in warnings.pop()
    del meta["topology"]["xla_flags"]  # of a version that did not write them
    records.check_checkpoint(meta, config, parts, tmp_path)
    assert len(warnings) == 1
