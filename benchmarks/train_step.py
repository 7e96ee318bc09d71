"""The SimCLR training step against the same step in PyTorch, images a second in one run.

    python benchmarks/train_step.py                                       # ResNet-18, 64 px, float32, for any machine
    python benchmarks/train_step.py --depth=50 --size=224 --batch=8 --core=0
    python benchmarks/train_step.py --preset=gpu --out=benchmarks/results --peer_python=OTHER/bin/python
    python benchmarks/train_step.py --preset=gpu --deterministic

Ours is the compiled step of the training loop with `objectives/simclr.py`; the peer is `peers/torch_simclr.py`, plain
and under `torch.compile`, with the same network, batch, size, loss and optimizer (SGD with momentum and decay). Each
side is a process of its own, so that neither sees the other's threads or memory; on a GPU all hold their memory at the
same time, and JAX takes it as needed. Sides take turns; a round is some steps and a wait. The ratio is the median over
the rounds of our images a second against the peer's of the same round. Two views of each example are two images. The
views themselves are timed apart. `--core` pins every side to one core with one thread and counts processor time, so
that other load on the machine counts little; without it, PyTorch loses many times as much as JAX to a busy core.

Prints one JSON object a line. Nothing is fetched. The GPU's preset is meant to end in 9 minutes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import re
import statistics
import subprocess
import sys
from typing import Any

from absl import app, flags
from peers import rounds

from radnet_jax import xla_flags

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(depth=18, base_width=64, size=64, batch=16, steps=1, rounds=7),
    "gpu": dict(depth=50, base_width=64, size=224, batch=128, steps=20, rounds=7),
}
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Size of everything.")
_DEPTH = flags.DEFINE_enum("depth", None, ["10", "18", "34", "50"], "ResNet depth, in place of the preset's.")
_WIDTH = flags.DEFINE_integer("base_width", None, "Channels of the first stage, in place of the preset's.")
_SIZE = flags.DEFINE_integer("size", None, "Pixels a side of a view, in place of the preset's.")
_BATCH = flags.DEFINE_integer("batch", None, "Examples a step, two views of each, in place of the preset's.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of a round, in place of the preset's.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "Timed rounds of each side, in place of the preset's.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "Also ours with XLA's flags for exact repeats on a GPU.")
_CORE = flags.DEFINE_integer("core", -1, "Core that each side is pinned to, in processor time; -1: all, wall-clock.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "Python of the environment with PyTorch.")
_OUT = flags.DEFINE_string("out", "", "Folder for a file of the results, named by the device.")
_OURS = flags.DEFINE_bool("ours", False, "Be the process of our side (used by the script itself).")

_PARTS = ("step", "views")


def settings() -> dict[str, Any]:
    given = dict(
        depth=_DEPTH.value and int(_DEPTH.value),
        base_width=_WIDTH.value,
        size=_SIZE.value,
        batch=_BATCH.value,
        steps=_STEPS.value,
        rounds=_ROUNDS.value,
    )
    return PRESETS[_PRESET.value] | {k: v for k, v in given.items() if v is not None}


def ours(s: dict[str, Any]) -> rounds.Made:
    """Returns the calls of each part, the wait for them, and the device."""
    import jax
    import numpy as np

    from radnet_jax import sharding
    from radnet_jax.augment import AUGMENTATIONS
    from radnet_jax.augment.views import make_views
    from radnet_jax.models import MODELS
    from radnet_jax.objectives import OBJECTIVES
    from radnet_jax.optim import make_optimizer
    from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter
    from radnet_jax.schedules import constant
    from radnet_jax.step import compiled_init, compiled_step

    stored, size, batch = stored_size(s), s["size"], s["batch"]
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    backbone = MODELS.build(f"resnet{s['depth']}", dict(base_width=s["base_width"], dtype=dtype))
    objective = OBJECTIVES.build("simclr", {}, backbone=backbone)
    tx, mesh = make_optimizer("sgd", constant(0.1), weight_decay=1e-4), sharding.make_mesh(1)
    rng = np.random.default_rng(0)
    example = {"views": rng.standard_normal((batch, 2, size, size, 3), np.float32)}
    example = jax.device_put(example, sharding.batch_sharding(mesh))
    state = compiled_init(objective, tx, mesh)(0, example)
    step = compiled_step(objective, tx, mesh)
    source = StoredPixels("photo", "none", (0.0, 255.0), (stored, stored), 3, "pad_area", "uint8")
    adapter = make_adapter(source, ModelInput("photo", 3, (size, size), (), (0.0, 255.0), (0.5,) * 3, (0.25,) * 3))
    recipe, keys = AUGMENTATIONS.build("simclr"), iter(range(1_000_000))
    image = jax.device_put(rng.integers(0, 256, (batch, stored, stored, 3), np.uint8))
    last: list[Any] = [state, None]

    def run_step() -> None:
        last[0], last[1] = step(last[0], example, 0)

    def run_views() -> None:
        last[1] = make_views(image, adapter, recipe, jax.random.key(next(keys)), 2)

    calls = {"step": run_step, "views": run_views}
    return calls, lambda: jax.block_until_ready(last), jax.devices()[0].device_kind


def stored_size(s: dict[str, Any]) -> int:
    return s["size"] * 8 // 7


class Side:
    """A process that does a round when asked."""

    def __init__(self, name: str):
        here, environment = Path(__file__).resolve(), dict(os.environ)
        if name.startswith("ours"):
            command = [sys.executable, str(here), *sys.argv[1:], "--ours"]
            environment["PYTHONPATH"] = os.pathsep.join((str(here.parent.parent), *(p for p in sys.path if p)))
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            xla_flags.set_flags(environment, deterministic=name == "ours_deterministic")
        else:
            s = settings() | {"stored": stored_size(settings()), "compiled": name != "torch", "core": _CORE.value}
            command = [_PEER_PYTHON.value, "-m", "peers.torch_simclr", json.dumps(s)]
            environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=here.parent,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.hello = json.loads(self.stdout.readline() or '{"absent": "it ended"}')

    def round(self, part: str) -> float:
        self.stdin.write(part + "\n")
        self.stdin.flush()
        return float(json.loads(self.stdout.readline())["seconds"])

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def measure(sides: dict[str, Side], part: str, count: int) -> dict[str, list[float]]:
    present = [name for name, side in sides.items() if part in side.hello.get("parts", ())]
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for number in range(count):
        for name in present if number % 2 == 0 else reversed(present):
            seconds[name].append(sides[name].round(part))
    return seconds


def main(argv: list[str]) -> None:
    del argv
    if _OURS.value:
        rounds.serve(lambda: ours(settings()), "jax", settings()["steps"], _CORE.value)
        return
    s, records = settings(), []

    def emit(**record: Any) -> None:
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
        records.append(rounded)
        print(json.dumps(rounded), flush=True)

    names = ["ours", *(["ours_deterministic"] if _DETERMINISTIC.value else []), "torch", "torch_compiled"]
    sides: dict[str, Side] = {}
    for name in names:  # one after another: autotuning on a busy device would choose badly
        sides[name] = Side(name)
        emit(side=name, **sides[name].hello)
    for part in _PARTS:
        seconds = measure(sides, part, s["rounds"])
        for name, values in seconds.items():
            images = 2 * s["batch"] * s["steps"]
            to_peer = {
                f"ratio_to_{other}": statistics.median(o / v for o, v in zip(seconds[other], values, strict=True))
                for other in seconds
                if name.startswith("ours") and other != name
            }
            emit(part=part, side=name, images_per_s=images / statistics.median(values), **to_peer)
    for side in sides.values():
        side.close()
    device = sides["ours"].hello.get("device", "none")
    clock = "wall-clock, all cores" if _CORE.value < 0 else "processor time, one core"
    emit(preset=_PRESET.value, **s, clock=clock, cores=len(os.sched_getaffinity(0)), device=device)
    if _OUT.value:
        name = re.sub(r"\W+", "_", device).strip("_").lower()
        path = Path(_OUT.value) / f"train_step_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n")
    if "absent" in sides["ours"].hello:
        raise SystemExit("ours did not start")


if __name__ == "__main__":
    app.run(main)
