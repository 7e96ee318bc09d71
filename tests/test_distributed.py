"""Several processes on this machine: the same losses as one, saves that any number can go on from, one stop for all."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from radnet_jax import checkpoint, distributed
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger

ROOT = Path(__file__).parent.parent
PRETRAIN = ("configs/pretrain/simclr.py:smoke,size=24",)
FINE_TUNE = ("configs/finetune/classification.py:smoke,scratch,size=24", "--config.select.every=4")


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


# A program in which one process can't read a step: only process 1 meets what the environment names.
FAULTY = """
import os, sys
from radnet_jax import checkpoint, main
real = checkpoint.read_meta
def read_meta(folder):
    if "--process_id=1" in sys.argv and str(folder).endswith(os.sep + "8"):
        raise ValueError("half of it")
    return real(folder)
checkpoint.read_meta = read_meta
sys.exit(main.main())
"""
PROGRAM = ("-m", "radnet_jax.main")


def start(dataset, workdir, recipe, *flags, processes=1, devices=4, program=PROGRAM):
    port = free_port()
    command = [
        *(sys.executable, *program, f"--config={recipe[0]}", *recipe[1:], f"--workdir={workdir}"),
        *(f"--config.data.dir={dataset}", "--config.backbone.name=resnet10", "--config.backbone.base_width=4"),
        *("--config.log_every=1", "--config.total_steps=8", "--config.checkpoint.every=4", *flags),
    ]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices // processes)}
    env.pop("XLA_FLAGS", None)
    of_several = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"] if processes > 1 else []
    return [
        subprocess.Popen(
            [*command, *of_several, *([f"--process_id={i}"] if of_several else [])],
            cwd=ROOT,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(started, code=0):
    try:
        errors = [p.communicate(timeout=280)[1] for p in started]
    finally:
        for p in started:
            p.kill()
    assert [p.returncode for p in started] == [code] * len(started), errors
    return errors


def losses(workdir):
    return {r["step"]: r["loss"] for r in ledger.read_curves(workdir)}


def back_to_step_4(workdir):
    """As if the run had been killed inside its last save."""
    (workdir / "run.json").unlink()
    for path in (workdir / "checkpoints" / "8").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


@pytest.mark.parametrize(
    ("recipe", "processes"),
    [
        (PRETRAIN, 2),
        pytest.param(PRETRAIN, 4, marks=pytest.mark.slow),
        pytest.param(FINE_TUNE, 2, marks=pytest.mark.slow),
    ],
)
def test_processes_give_the_losses_of_one_and_each_goes_on_from_the_other(ct_dataset, tmp_path, recipe, processes):
    one, several = tmp_path / "one", tmp_path / "several"
    finish(start(ct_dataset, one, recipe))
    finish(start(ct_dataset, several, recipe, processes=processes))
    assert sorted(losses(several)) == list(range(1, 9))
    # float32 sums in another order, which training magnifies
    np.testing.assert_allclose(list(losses(several).values())[:4], list(losses(one).values())[:4], rtol=1e-4)
    np.testing.assert_allclose(list(losses(several).values()), list(losses(one).values()), rtol=5e-3)
    if recipe is FINE_TUNE:
        runs = [ledger.read_run(w) for w in (one, several)]
        assert len(runs[0].predictions.case_id) == len(runs[1].predictions.case_id)
        assert runs[0].predictions.case_id == runs[1].predictions.case_id
        np.testing.assert_allclose(runs[0].predictions.scores, runs[1].predictions.scores, atol=0.05)
    for workdir in (one, several):
        back_to_step_4(workdir)
    finish(start(ct_dataset, several, recipe))
    finish(start(ct_dataset, one, recipe, processes=processes))
    for workdir in (one, several):
        assert ledger.read_run(workdir).timings["first_step"] == 4
        assert (workdir / "checkpoints" / "8.unusable").is_dir()
    np.testing.assert_allclose(list(losses(several).values()), list(losses(one).values()), rtol=5e-3)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_four_and_then_with_one(ct_dataset, tmp_path):
    finish(start(ct_dataset, tmp_path, PRETRAIN, processes=2))
    before = losses(tmp_path)
    for processes in (4, 1):
        back_to_step_4(tmp_path)
        errors = finish(start(ct_dataset, tmp_path, PRETRAIN, processes=processes))
        assert f"now {processes}): as exact as float32 sums are" in errors[0]
        assert ledger.read_run(tmp_path).timings["first_step"] == 4
        np.testing.assert_allclose(list(losses(tmp_path).values()), list(before.values()), rtol=5e-3)


@pytest.mark.slow
def test_a_step_that_one_process_can_not_read_is_left_by_all(ct_dataset, tmp_path):
    finish(start(ct_dataset, tmp_path, PRETRAIN, processes=2))
    before = losses(tmp_path)
    (tmp_path / "run.json").unlink()
    errors = finish(start(ct_dataset, tmp_path, PRETRAIN, processes=2, program=("-c", FAULTY)))
    assert "checkpoint 8 is not usable (half of it)" in errors[1]
    assert "checkpoint 8 is not usable (another process can't read it)" in errors[0]
    assert (tmp_path / "checkpoints" / "8.unusable").is_dir()
    assert ledger.read_run(tmp_path).timings["first_step"] == 4
    assert losses(tmp_path) == before


def test_a_signal_to_one_process_stops_all_at_one_step(ct_dataset, tmp_path):
    started = start(ct_dataset, tmp_path, PRETRAIN, "--config.total_steps=4000", processes=2)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "4").is_dir() and not losses_so_far(tmp_path) > 4:
        assert all(p.poll() is None for p in started)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    errors = finish(started, code=75)
    assert "the same command goes on from there" in errors[0]
    arrays, meta = checkpoint.load_arrays(checkpoint.latest_folder(tmp_path))
    assert 4 <= int(arrays["step"]) == meta["step"] < 4000
    assert meta["topology"]["processes"] == 2


def losses_so_far(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, ""),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ""),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "3"}, ""),  # the shell of an allocation
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, "Slurm"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, "TPU pod"),
    ],
)
def test_the_launcher_is_known_by_what_it_leaves_in_the_environment(environment, launcher):
    assert distributed.several_processes(environment) == launcher


@pytest.mark.parametrize(
    ("environment", "owns"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, True),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2"}, False),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "3"}, True),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "JAX_LOCAL_DEVICE_IDS": "0,1"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
    ],
)
def test_a_process_alone_on_its_host_has_all_its_gpus(environment, owns):
    assert distributed.owns_gpus(environment) == owns


@pytest.mark.parametrize(
    "flags",
    [("localhost:1", None, 0), (None, 2, 0), ("localhost:1", 2, 2), ("localhost", 2, 0), ("localhost:1", 2, -1)],
)
def test_flags_that_do_not_fit_together_are_refused(flags):
    with pytest.raises(UserError, match="all three"):
        distributed.start(*flags)


@pytest.mark.parametrize(
    "error", [None, ValueError("coordinator_address should be defined."), RuntimeError("no answer")]
)
def test_on_a_tpu_jax_is_asked_for_other_hosts(monkeypatch, error):
    """The hosts of a Cloud TPU slice are known by its metadata server; nothing in the environment names them."""
    asked = []

    def initialize(*arguments, **options):
        asked.append(arguments)
        if error:
            raise error

    monkeypatch.setattr(distributed.xla_flags, "platform", lambda environment: "tpu")
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    if isinstance(error, RuntimeError):
        with pytest.raises(UserError, match="as the TPU says"):
            distributed.start(None, None, None)
    else:
        distributed.start(None, None, None)
    assert asked == [(None, None, None)]
