"""What a study costs beside its runs, and what is left of it when its processes are killed.

    python benchmarks/study.py --kills=10

A small study (generated CT and photographs, two pretrainings, fine-tuning and probe) is run

- in one process, twice: with an empty compilation cache and with that of the first, and its wall time compared with
  what its runs took without compiling. `overhead` is all the rest (start of the process, data, compiling, claims,
  renames, report), as a share of that; `bookkeeping` is the rest without start, compiling, data and report;
- by two processes at once in one folder, of which a random one is killed (SIGKILL) again and again at a random moment
  and started anew, until it is finished: whether predictions and metrics of every run equal those of the undisturbed
  study bit for bit, no run is missing or stands twice, and nothing is left of claims and attempts.

Prints one JSON object a line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from radnet_jax.evaluation import ledger

_KILLS = flags.DEFINE_integer("kills", 10, "Processes that are killed.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")
_STEPS = flags.DEFINE_integer("steps", 60, "Of each pretraining and fine-tuning.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Of the study.")

ROOT = Path(__file__).parents[1]


def _start(workdir: Path, cache: Path) -> subprocess.Popen[str]:
    sections = ("pretraining.ct", "pretraining.natural", "protocols.fine_tune")
    command = [
        *(sys.executable, "-m", "radnet_jax.main", "--config=configs/quickstart.py", f"--workdir={workdir}"),
        f"--config.seeds={tuple(range(_SEEDS.value))}",
        "--config.datasets.ct.generate.patients_per_region=12",
        "--config.datasets.leaves.generate.images=300",
        "--config.compare.n_resamples=500",
        "--config.claims.heartbeat=1.0",
        *(f"--config.{s}.config.total_steps={_STEPS.value}" for s in sections),
        *(f"--config.{s}.config.checkpoint.every=10" for s in sections),
    ]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    log = (workdir.parent / f"{workdir.name}.log").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, text=True)


def _alone(workdir: Path, cache: Path) -> dict[str, Any]:
    began = time.perf_counter()
    if _start(workdir, cache).wait():
        log = (workdir.parent / f"{workdir.name}.log").read_text().splitlines()
        raise SystemExit("\n".join(["the study failed:", *log[-15:]]))
    wall = time.perf_counter() - began
    runs = ledger.read_runs(workdir / "runs")
    bare = compiling = 0.0
    for run in runs:
        seconds = run.timings.get("seconds", {})
        compiling += seconds.get("compile", 0.0)
        bare += run.timings["total_s"] - seconds.get("compile", 0.0)
    first, last = _claimed_and_done(workdir)
    between = last - first - sum(run.timings["total_s"] for run in runs)
    return {
        "wall_s": wall,
        "runs": len(runs),
        "bare_s": bare,
        "compiling_s": compiling,
        "overhead": (wall - bare) / bare,
        "bookkeeping_s": between,
        "bookkeeping": between / bare,
    }


def _claimed_and_done(workdir: Path) -> tuple[float, float]:
    """When the first run appeared, less what it took, and when the last one did; by file times."""
    paths = sorted((workdir / "runs").rglob("run.json"), key=lambda p: p.stat().st_mtime)
    first = paths[0].stat().st_mtime - json.loads(paths[0].read_text())["timings"]["total_s"]
    return first, paths[-1].stat().st_mtime


def _killed(workdir: Path, cache: Path) -> dict[str, Any]:
    rng = random.Random(_SEED.value)
    began = time.perf_counter()
    workers = [_start(workdir, cache) for _ in range(2)]
    kills = 0
    report = workdir / "report" / "index.html"
    while not report.is_file():
        time.sleep(rng.uniform(0.0, 20.0))
        if kills < _KILLS.value and not report.is_file():
            victim = workers.pop(rng.randrange(len(workers)))
            if victim.poll() is None:
                victim.send_signal(signal.SIGKILL)
                kills += 1
            victim.wait()
            workers.append(_start(workdir, cache))
        elif all(worker.poll() is not None for worker in workers):
            break
    codes = [worker.wait() for worker in workers]
    return {"kills": kills, "exit_codes": codes, "wall_s": time.perf_counter() - began}


def _compare(one: Path, other: Path) -> dict[str, Any]:
    found = [{r.name: r for r in ledger.read_runs(folder / "runs")} for folder in (one, other)]
    differing = []
    for name in found[0].keys() & found[1].keys():
        a, b = (runs[name] for runs in found)
        same = a.record["run_id"] == b.record["run_id"] and a.record.get("metrics") == b.record.get("metrics")
        if a.judged:
            same &= (a.folder / "predictions.parquet").read_bytes() == (b.folder / "predictions.parquet").read_bytes()
        if not same:
            differing.append(name)
    steps = [[row["step"] for row in r.curves] for r in found[1].values() if r.curves]
    return {
        "missing": sorted(found[0].keys() ^ found[1].keys()),
        "differing": differing,
        "steps_twice_or_missing": sum(s != sorted(set(s)) for s in steps),
        "left_over": [p.name for p in (other / "attempts").iterdir()] + [p.name for p in (other / "claims").iterdir()],
    }


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cache = folder / "cache"
        for name in ("cold", "warm"):
            print(json.dumps({"benchmark": f"study_{name}", **_alone(folder / name, cache)}), flush=True)
        if _KILLS.value:
            told = _killed(folder / "killed", cache)
            print(json.dumps({"benchmark": "study_killed", **told, **_compare(folder / "warm", folder / "killed")}))


if __name__ == "__main__":
    app.run(main)
