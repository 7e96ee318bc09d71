"""How long and how much memory the quickstart takes, and how soon a warm start does its first step.

    python benchmarks/quickstart.py [--workdir=DIR]

Prints one JSON object for each question. Memory is the sum over the command's processes, sampled twice a second.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", help="kept there; by default a temporary folder")
    workdir = parser.parse_args().workdir
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(workdir or temporary).absolute()
        study = folder / "quickstart"
        seconds, peak = _measure(["--config=configs/quickstart.py", f"--workdir={study}"])
        _print(benchmark="quickstart", wall_s=seconds, peak_rss_mib=peak)
        seconds, _ = _measure(["--config=configs/quickstart.py", f"--workdir={study}"])
        _print(benchmark="quickstart_finished_before", wall_s=seconds)

        # The study again without its first pretraining: what a restart costs with the compilation cache of the study.
        pretraining = study / "runs" / "pretraining" / "ct"
        shutil.move(pretraining, folder / "finished_pretraining")
        flags = ["--config=configs/quickstart.py", "--config.pretraining.ct.config.log_every=1", f"--workdir={study}"]
        _print(benchmark="warm_start_first_step", wall_s=_first_step(flags, study / "attempts" / "pretrain-ct@1"))


def _command(flags: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "radnet_jax.main", *flags], cwd=ROOT)


def _measure(flags: list[str]) -> tuple[float, float]:
    """Returns (seconds, peak MiB) of a command."""
    began = time.perf_counter()
    process = _command(flags)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _tree_rss_mib(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"the command failed: {flags}")
    watcher.join()
    return time.perf_counter() - began, peak


def _first_step(flags: list[str], workdir: Path) -> float:
    """Returns the seconds from the start of the process until its first step is logged (a step later); ends it then."""
    began = time.perf_counter()
    process = _command(flags)
    log = workdir / "metrics.jsonl"
    try:
        while not (log.is_file() and log.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"the command failed: {flags}")
            time.sleep(0.05)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def _tree_rss_mib(root: int) -> float:
    children: dict[int, list[int]] = {}
    rss: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(folder.name)
        children.setdefault(int(fields[1]), []).append(pid)
        rss[pid] = int(fields[21]) * 4096 / 2**20
    waiting, total = [root], 0.0
    while waiting:
        pid = waiting.pop()
        total += rss.get(pid, 0.0)
        waiting += children.get(pid, [])
    return total


def _print(**values: object) -> None:
    print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


if __name__ == "__main__":
    main()
