"""Several jobs of a study at once on one machine: processes of the same command, each with a GPU of its own."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
import time
from types import FrameType

import jax

from radnet_jax import distributed, machine, xla_flags
from radnet_jax.errors import EXIT_PREEMPTED, Preempted, UserError

CORES = 4  # of a job on the CPU: with more a small network is hardly faster
MEMORY = 4 * 2**30  # of a job, in bytes, beside that of its GPU
_CHECKED = "RADNET_JAX_STUDY_CHECKED"  # file that the first process makes when the study was found to be right


def checked() -> None:
    """Tells the process that has started this one that nothing was refused."""
    if path := os.environ.get(_CHECKED):
        Path(path).touch()


def fitting(left: int) -> int:
    """Returns how many jobs at once suit this machine, of `left` ones, where the user has not said it.

    One where this process is one of several of a run, or was not started as a command.
    """
    if left < 2 or not _is_command() or distributed.several_processes(os.environ) or jax.distributed.is_initialized():
        return 1
    kind = xla_flags.platform(os.environ)
    gpus = len(visible_gpus(os.environ)) if kind == "gpu" else 0
    return min(left, fit(kind, gpus=gpus, cores=machine.cores(), memory=machine.memory()[1]))


def fit(kind: str, *, gpus: int, cores: int, memory: int) -> int:
    """Returns how many jobs a machine does at once: one a GPU; without any, one for each four cores.

    Args:
      kind: what jax computes with, "gpu", "cpu" or "tpu"; the chips of a TPU belong to one process.
      gpus: that may be used.
      cores: likewise.
      memory: in bytes, of the machine or of this job; each of those at once has 4 GiB of it.
    """
    room = memory // MEMORY if memory else gpus or 1
    wanted = {"gpu": gpus, "cpu": cores // CORES}.get(kind, 1)
    return max(1, min(wanted, room))


def _is_command() -> bool:
    return "radnet_jax.main" in sys.orig_argv


def run(count: int, report: Path) -> Path:
    """Starts `count` processes of this very command, each doing one job at a time, and waits for them.

    The first one makes the checks; the others start when it has found nothing to refuse.

    Raises:
      UserError: a process has refused or failed; what it was stands above, in its own words.
      Preempted: they were asked to stop.
    """
    if not _is_command():
        raise UserError("config.at_once needs the command line", got=count, fix="python -m radnet_jax.main ...")
    gpus = visible_gpus(os.environ)
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder) / "checked"
            for number in range(count):
                environment = os.environ | environment_of(number, count, gpus) | {_CHECKED: str(mark)}
                command = [*sys.orig_argv, "--config.at_once=1"]  # of a flag that is given twice the last one counts
                processes.append(subprocess.Popen(command, env=environment))
                while number == 0 and processes[0].poll() is None and not mark.exists():
                    time.sleep(0.1)
                if number == 0 and not mark.exists():
                    break
            codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if EXIT_PREEMPTED in codes:
        raise Preempted("the study was asked to stop")
    if any(codes):
        raise UserError(f"{sum(map(bool, codes))} of {len(codes)} process(es) have ended with an error, told above")
    return report


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Returns the GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them; asks no driver."""
    if environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [gpu for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    return sorted((p.name[6:] for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)), key=int)


def environment_of(number: int, count: int, gpus: list[str]) -> dict[str, str]:
    """Returns what process `number` of `count` adds to its environment: its GPU, and its share of the memory."""
    if not gpus:
        return {}
    share = -(-count // len(gpus))  # processes on one GPU
    out = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    return out if share == 1 else out | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / share:.2f}"}
