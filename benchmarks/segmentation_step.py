"""The U-Net training step against segmentation_models_pytorch's, images a second in one run.

    python benchmarks/segmentation_step.py --peer_python=OTHER/bin/python      # ResNet-18, 128 px, float32, any machine
    python benchmarks/segmentation_step.py --core=0 --peer_python=OTHER/bin/python
    python benchmarks/segmentation_step.py --preset=gpu --peer_python=OTHER/bin/python --out=benchmarks/results

Ours is the compiled step of the training loop with `objectives/segmentation.py`: the ResNet, the decoder "btl", Dice
and cross entropy, AdamW. The peer is `peers/torch_unet.py`, plain and under `torch.compile`: `smp.Unet`, whose outputs
with the same weights are ours (tests/models/test_decoders.py), with the same loss, optimizer, batch and size. Sides are
processes that take turns, as in train_step.py; the ratio is the median over the rounds of our images a second against
the peer's of the same round. `--core` pins every side to one core with one thread and counts processor time.

Prints one JSON object a line. Nothing is fetched.
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
    "cpu": dict(depth=18, size=128, batch=4, classes=3, steps=1, rounds=7),
    "gpu": dict(depth=50, size=256, batch=64, classes=3, steps=20, rounds=7),
}
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Size of everything.")
_CORE = flags.DEFINE_integer("core", -1, "Core that each side is pinned to, in processor time; -1: all, wall-clock.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "Python of the environment with PyTorch and smp.")
_OUT = flags.DEFINE_string("out", "", "Folder for a file of the results, named by the device.")
_OURS = flags.DEFINE_bool("ours", False, "Be the process of our side (used by the script itself).")


def ours(s: dict[str, Any]) -> rounds.Made:
    """Returns the call of a step, the wait for it, and the device."""
    import jax
    import numpy as np

    from radnet_jax import sharding
    from radnet_jax.data.card import DatasetCard
    from radnet_jax.models import MODELS
    from radnet_jax.objectives import OBJECTIVES
    from radnet_jax.optim import make_optimizer
    from radnet_jax.preprocessing import StoredPixels
    from radnet_jax.schedules import constant
    from radnet_jax.step import compiled_init, compiled_step

    size, batch = s["size"], s["batch"]
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    stored = StoredPixels("photo", "none", (0.0, 255.0), (size, size), 3, "none", "uint8")
    names = tuple(f"class {i}" for i in range(1, s["classes"]))
    card = DatasetCard("noise", "1", "none", (), stored, {}, "", segmentation=names)
    backbone = MODELS.build(f"resnet{s['depth']}", dict(dtype=dtype))
    decoder = dict(name="unet", kind="btl", dtype=dtype)
    objective = OBJECTIVES.build("segmentation", dict(decoder=decoder), backbone=backbone, card=card)
    tx, mesh = make_optimizer("adamw", constant(1e-3), weight_decay=1e-2), sharding.make_mesh(1)
    rng = np.random.default_rng(0)
    example = {
        "image": rng.standard_normal((batch, size, size, 3), np.float32),
        "segmentation": rng.integers(0, s["classes"], (batch, size, size), np.uint8),
    }
    example = jax.device_put(example, sharding.batch_sharding(mesh))
    last: list[Any] = [compiled_init(objective, tx, mesh)(0, example), None]
    step = compiled_step(objective, tx, mesh)

    def run() -> None:
        last[0], last[1] = step(last[0], example, 0)

    return {"step": run}, lambda: jax.block_until_ready(last), jax.devices()[0].device_kind


class Side:
    """A process that does a round when asked."""

    def __init__(self, name: str, s: dict[str, Any]):
        here, environment = Path(__file__).resolve(), dict(os.environ)
        if name == "ours":
            command = [sys.executable, str(here), *sys.argv[1:], "--ours"]
            environment["PYTHONPATH"] = os.pathsep.join((str(here.parent.parent), *(p for p in sys.path if p)))
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            xla_flags.set_flags(environment, deterministic=False)
        else:
            given = s | {"compiled": name == "smp_compiled", "core": _CORE.value}
            command = [_PEER_PYTHON.value, "-m", "peers.torch_unet", json.dumps(given)]
            environment.pop("PYTHONPATH", None)
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, **pipes, env=environment, cwd=here.parent)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.hello = json.loads(self.stdout.readline() or '{"absent": "it ended"}')

    def round(self) -> float:
        self.stdin.write("step\n")
        self.stdin.flush()
        return float(json.loads(self.stdout.readline())["seconds"])

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def main(argv: list[str]) -> None:
    del argv
    s, records = PRESETS[_PRESET.value], []
    if _OURS.value:
        rounds.serve(lambda: ours(s), "jax", s["steps"], _CORE.value)
        return

    def emit(**record: Any) -> None:
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
        records.append(rounded)
        print(json.dumps(rounded), flush=True)

    sides: dict[str, Side] = {}
    for name in ("ours", "smp", "smp_compiled"):  # one after another: autotuning on a busy device would choose badly
        sides[name] = Side(name, s)
        emit(side=name, **sides[name].hello)
    present = [name for name, side in sides.items() if "absent" not in side.hello]
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for number in range(s["rounds"]):
        for name in present if number % 2 == 0 else reversed(present):
            seconds[name].append(sides[name].round())
    for name, values in seconds.items():
        ratios = {
            f"ratio_to_{other}": statistics.median(o / v for o, v in zip(seconds[other], values, strict=True))
            for other in present
            if name == "ours" and other != name
        }
        emit(part="step", side=name, images_per_s=s["batch"] * s["steps"] / statistics.median(values), **ratios)
    for side in sides.values():
        side.close()
    device = sides["ours"].hello.get("device", "none")
    clock = "wall-clock, all cores" if _CORE.value < 0 else "processor time, one core"
    emit(preset=_PRESET.value, **s, clock=clock, cores=len(os.sched_getaffinity(0)), device=device)
    if _OUT.value:
        name = re.sub(r"\W+", "_", device).strip("_").lower()
        path = Path(_OUT.value) / f"segmentation_step_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n")
    if "absent" in sides["ours"].hello:
        raise SystemExit("ours did not start")


if __name__ == "__main__":
    app.run(main)
