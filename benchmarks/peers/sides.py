"""The measuring side of a comparison of steps: processes that do a round when asked, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
from pathlib import Path
import re
import select
import statistics
import subprocess
import sys
import time
from typing import Any

from radnet_jax import xla_flags

_FOLDER = Path(__file__).resolve().parent.parent
_BEGAN = time.monotonic()


class Side:
    """A process that does a round when asked, as `rounds.serve` answers; ended where it isn't ready in time."""

    def __init__(self, command: list[str], environment: Mapping[str, str], limit: float):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=_FOLDER
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        ready, _, _ = select.select([self.stdout], [], [], limit)
        if not ready:
            self.process.kill()
        line = self.stdout.readline() if ready else json.dumps({"absent": f"not ready after {limit:.0f} s"})
        self.hello = json.loads(line or '{"absent": "it ended"}')

    def round(self, part: str) -> float:
        self.stdin.write(part + "\n")
        self.stdin.flush()
        return float(json.loads(self.stdout.readline())["seconds"])

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def _time_left(limit: float) -> float:
    """Seconds for a side to be ready in, where everything ends after `limit`, with a quarter of it for the rounds."""
    return max(0.75 * limit - (time.monotonic() - _BEGAN), 1.0)


def ours(script: str, *, deterministic: bool = False, limit: float) -> Side:
    """Starts the calling script again as our side, with `--ours` and this process's paths."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join((str(_FOLDER.parent), *(p for p in sys.path if p)))
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    xla_flags.set_flags(environment, deterministic=deterministic)
    return Side([sys.executable, str(Path(script).resolve()), *sys.argv[1:], "--ours"], environment, _time_left(limit))


def peer(python: str, module: str, settings: Mapping[str, Any], *, limit: float) -> Side:
    """Starts a module of `peers` in the environment that has PyTorch."""
    python = os.path.abspath(python) if os.sep in python else python  # a side starts in another folder
    ours = python == sys.executable  # the paths of this environment are of use there too
    environment = {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"}
    return Side([python, "-m", f"peers.{module}", json.dumps(settings)], environment, _time_left(limit))


def tell(**record: Any) -> dict[str, Any]:
    """Prints a record as a line of JSON, numbers to four digits; returns it as printed."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
    print(json.dumps(rounded), flush=True)
    return rounded


class Told:
    """What was measured: printed as it comes, one JSON object a line, and kept for a file."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def emit(self, **record: Any) -> None:
        self._records.append(tell(**record))

    def measure(self, sides: Mapping[str, Side], part: str, *, rounds: int, images: int) -> None:
        """Times a part in turns; `images` are those of a round. Ratios are medians over the rounds."""
        present = [name for name, side in sides.items() if part in side.hello.get("parts", ())]
        seconds: dict[str, list[float]] = {name: [] for name in present}
        for number in range(rounds):
            for name in present if number % 2 == 0 else reversed(present):
                seconds[name].append(sides[name].round(part))
        for name, values in seconds.items():
            ratios = {
                f"ratio_to_{other}": statistics.median(o / v for o, v in zip(seconds[other], values, strict=True))
                for other in present
                if name.startswith("ours") and other != name
            }
            self.emit(part=part, side=name, images_per_s=images / statistics.median(values), **ratios)

    def end(self, sides: Mapping[str, Side], benchmark: str, folder: str, core: int, **settings: Any) -> None:
        """Ends the sides, tells the settings, writes the file where a folder is given; exits where ours is absent."""
        for side in sides.values():
            side.close()
        device = sides["ours"].hello.get("device", "none")
        clock = "wall-clock, all cores" if core < 0 else "processor time, one core"
        self.emit(**settings, clock=clock, cores=len(os.sched_getaffinity(0)), device=device)
        if folder:
            name = re.sub(r"\W+", "_", device).strip("_").lower()
            path = Path(folder) / f"{benchmark}_{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._records, indent=1) + "\n")
        if "absent" in sides["ours"].hello:
            raise SystemExit("ours did not start")


def started(names: Iterable[str], start: Any, told: Told) -> dict[str, Side]:
    """Starts sides one after another: autotuning on a busy device would choose badly."""
    sides: dict[str, Side] = {}
    for name in names:
        sides[name] = start(name)
        told.emit(side=name, **sides[name].hello)
    return sides
