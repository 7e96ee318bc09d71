"""Kills a pretraining run at random moments until it is finished, and compares it with one that was left alone.

    python benchmarks/resume.py --kills=20
    python benchmarks/resume.py --kills=3 --steps=60 --deterministic    # on a GPU, whose bits differ without the flag

Each sitting is a process of its own, killed (SIGKILL) a random moment after a random number of its saves, none among
them, so that it gets on whatever the speed of the machine; checkpoints are frequent, so that many kills hit one. Prints
one JSON object a line for each sitting (the step it was to go on from, the last one in its log, whether the kill left a
half-written save, seconds from start to its first step with a warm compilation cache) and one for the whole: whether
all values of the final checkpoint and the loss of every step equal the uninterrupted run's bit for bit, and how many
steps stand twice or are missing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import numpy as np

from data_prep import phantom
from data_prep.build import build
from radnet_jax import checkpoint
from radnet_jax.evaluation import ledger

_KILLS = flags.DEFINE_integer("kills", 20, "Sittings that are killed.")
_STEPS = flags.DEFINE_integer("steps", 400, "Steps of the run.")
_EVERY = flags.DEFINE_integer("every", 3, "Steps from save to save.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "Runs are started with --deterministic.")
_DEVICES = flags.DEFINE_integer("devices", 2, "CPU devices, where there is no accelerator.")


def _start(dataset: Path, workdir: Path) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "radnet_jax.main", "--config=configs/pretrain/simclr.py:smoke,size=24"),
        f"--workdir={workdir}",
        f"--config.data.dir={dataset}",
        f"--config.total_steps={_STEPS.value}",
        f"--config.checkpoint.every={_EVERY.value}",
        "--config.log_every=1",
        "--config.backbone.name=resnet10",
        "--config.backbone.base_width=4",
        *(["--deterministic"] if _DETERMINISTIC.value else []),
    ]
    env = {"JAX_NUM_CPU_DEVICES": str(_DEVICES.value)} | os.environ
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env=env, stderr=subprocess.PIPE, text=True)


def _logged(workdir: Path) -> int:
    """Last step in the log of a run that is under way; 0 for none."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (json.JSONDecodeError, KeyError):
            continue  # half-written
    return 0


def _saved(workdir: Path) -> list[int]:
    """Steps that have a whole checkpoint, oldest first."""
    return sorted(int(p.name) for p in (workdir / checkpoint.FOLDER).glob("*") if p.name.isdigit())


def _first_step(process: subprocess.Popen[str], workdir: Path, began: float, before: set[str]) -> float:
    """Seconds until the first step of this sitting is in the log: it is rewritten, then grows."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.is_file() and (text := path.read_text()) and any(line not in before for line in text.splitlines()):
            break
        time.sleep(0.01)
    return time.perf_counter() - began


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    rng = random.Random(_SEED.value)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phantom.write_ct(root / "raw", patients_per_region=4, seed=0)
        build("radnet", root / "raw", root / "dataset", size=32, log=lambda _: None)
        whole, killed = root / "whole", root / "killed"
        process = _start(root / "dataset", whole)
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors)
        seconds, halves = [], 0
        for kill in range(_KILLS.value):
            path = killed / "metrics.jsonl"
            before = set(path.read_text().splitlines()) if path.is_file() else set()
            start = max(_saved(killed), default=0)
            began = time.perf_counter()
            process = _start(root / "dataset", killed)
            seconds.append(_first_step(process, killed, began, before))
            until = start + rng.randrange(4) * _EVERY.value
            while max(_saved(killed), default=0) < until and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))  # some of it inside a save
            finished = process.poll() is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
            row: dict[str, Any] = {"benchmark": "resume", "kill": kill + 1, "from_step": start}
            half = [p for p in (killed / checkpoint.FOLDER).glob("*") if not p.name.isdigit()]
            row |= {"at_step": _logged(killed), "half_written": bool(half)}
            halves += bool(half)
            row["seconds_to_first_step"] = round(seconds[-1], 2)
            print(json.dumps(row), flush=True)
            if finished:
                break
        process = _start(root / "dataset", killed)
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors)
        ours, theirs = (checkpoint.load_arrays(checkpoint.latest_folder(w))[0] for w in (killed, whole))
        curves = [[(r["step"], r["loss"]) for r in ledger.read_curves(w)] for w in (killed, whole)]
        steps = [step for step, _ in curves[0]]
        print(
            json.dumps(
                {
                    "benchmark": "resume",
                    "kills": len(seconds),
                    "kills_inside_a_save": halves,
                    "steps": _STEPS.value,
                    "equal_bits": ours.keys() == theirs.keys()
                    and all(np.array_equal(ours[k], theirs[k]) for k in ours),
                    "equal_losses": curves[0] == curves[1],
                    "steps_twice": len(steps) - len(set(steps)),
                    "steps_missing": _STEPS.value - len(set(steps)),
                    "median_seconds_to_first_step": round(statistics.median(seconds[1:] or seconds), 2),
                    "largest_seconds_to_first_step": round(max(seconds[1:] or seconds), 2),
                }
            )
        )


if __name__ == "__main__":
    app.run(main)
