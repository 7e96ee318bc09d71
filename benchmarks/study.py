"""What a study costs beside its runs, and what is left of it when its processes are killed.

    python benchmarks/study.py --kills=10

A small study (generated CT and photographs, two pretrainings, fine-tuning and probe) is run

- in one process with one seed, which fills the compilation cache and makes the datasets;
- in one process with that cache and those datasets, to a report; then each of its runs once more by a command of its
  own (`python -m radnet_jax.main --config=...` of the same config, with the same cache): `overhead` is what the study
  took more than all these commands, as a share of them, in wall time and in CPU time, which a busy machine disturbs
  less. `between` is what it took beside what its runs say they took, as a share of that: start of the process, checks,
  claims, renames, report;
- by two processes at once in one folder, of which a random one is killed (SIGKILL) again and again at a random moment
  and started anew, until it is finished: whether predictions and metrics of every run equal those of the undisturbed
  study bit for bit, no run is missing or stands twice, and nothing is left of claims and attempts.

Prints one JSON object a line.
"""

from __future__ import annotations

import ast
import functools
import json
import os
from pathlib import Path
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.study import spec
from radnet_jax.study.expand import Run
from radnet_jax.study.run import all_runs

_KILLS = flags.DEFINE_integer("kills", 10, "Processes that are killed.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")
_STEPS = flags.DEFINE_integer("steps", 60, "Of each pretraining and fine-tuning.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Of the study.")

ROOT = Path(__file__).parents[1]


def _changes() -> list[str]:
    """Overrides of the quickstart's config: what is run."""
    sections = ("pretraining.ct", "pretraining.natural", "protocols.fine_tune")
    return [
        "--config.datasets.ct.generate.patients_per_region=12",
        "--config.datasets.leaves.generate.images=300",
        "--config.compare.n_resamples=500",
        "--config.claims.heartbeat=1.0",
        "--config.at_once=1",
        *(f"--config.{s}.config.total_steps={_STEPS.value}" for s in sections),
        *(f"--config.{s}.config.checkpoint.every={max(_STEPS.value // 6, 1)}" for s in sections),
    ]


def _start(workdir: Path, cache: Path, *flags: str) -> subprocess.Popen[str]:
    """Starts a command of ours, `flags` or by default the study."""
    seeds = f"--config.seeds={tuple(range(_SEEDS.value))}"
    flags = flags or ("--config=configs/quickstart.py", *_changes(), seeds)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    log = (workdir.parent / f"{workdir.name}.log").open("a")
    command = [sys.executable, "-m", "radnet_jax.main", *flags, f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, text=True)


def _timed(workdir: Path, cache: Path, *flags: str) -> tuple[float, float]:
    """Runs a command to its end; returns its wall time and its CPU time, with its processes, in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if _start(workdir, cache, *flags).wait():
        log = (workdir.parent / f"{workdir.name}.log").read_text().splitlines()
        raise SystemExit("\n".join(["the command failed:", *log[-15:]]))
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _alone(workdir: Path, cache: Path) -> dict[str, Any]:
    """The study in one process, and each of its runs by a command of its own."""
    wall, cpu = _timed(workdir, cache)
    bare, bare_cpu = dict.fromkeys(("train", "probe"), 0.0), dict.fromkeys(("train", "probe"), 0.0)
    for number, job in enumerate(_jobs(workdir)):
        config = job.config.to_dict()
        if config["run"] == "probe":
            config["probe"]["cache_dir"] = ""
        file = workdir.parent / f"bare_{number}.py"
        file.write_text(
            f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({config!r}).lock()\n"
        )
        took = _timed(workdir.parent / "bare" / str(number), cache, f"--config={file}")
        bare[config["run"]] += took[0]
        bare_cpu[config["run"]] += took[1]
    own = sum(run.timings["total_s"] for run in ledger.read_runs(workdir / "runs"))
    return {
        "runs": len(_jobs(workdir)),
        "wall_s": wall,
        "cpu_s": cpu,
        "commands_wall_s": bare,
        "commands_cpu_s": bare_cpu,
        "overhead_wall": wall / sum(bare.values()) - 1,
        "overhead_cpu": cpu / sum(bare_cpu.values()) - 1,
        "runs_own_s": own,
        "between": wall / own - 1,
    }


def _jobs(workdir: Path) -> list[Run]:
    """The runs of the study, whose starts and datasets lie in its folder."""
    loaded = load_config(ROOT / "configs" / "quickstart.py").to_dict() | {"seeds": tuple(range(_SEEDS.value))}
    for change in _changes():
        *sections, key = change.partition("=")[0].removeprefix("--config.").split(".")
        functools.reduce(lambda outer, name: outer[name], sections, loaded)[key] = ast.literal_eval(
            change.partition("=")[2]
        )
    runs = all_runs(spec.read(ConfigDict(loaded).lock()), workdir)
    return [run for run in runs if isinstance(run, Run)]


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
        cache, cold, warm = (folder / name for name in ("cache", "cold", "warm"))
        (folder / "bare").mkdir()
        wall, cpu = _timed(cold, cache, "--config=configs/quickstart.py", *_changes(), "--config.seeds=(0,)")
        print(json.dumps({"benchmark": "study_cold", "wall_s": wall, "cpu_s": cpu}), flush=True)
        for name in ("generated", "datasets"):
            shutil.copytree(cold / name, warm / name)
        print(json.dumps({"benchmark": "study_warm", **_alone(warm, cache)}), flush=True)
        if _KILLS.value:
            told = _killed(folder / "killed", cache)
            print(json.dumps({"benchmark": "study_killed", **told, **_compare(warm, folder / "killed")}))


if __name__ == "__main__":
    app.run(main)
