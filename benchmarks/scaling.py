"""How a training step scales from one device to all of them, with the same batch on each.

    python benchmarks/scaling.py                   # forced CPU devices, a small network
    python benchmarks/scaling.py --preset=gpu      # a host with several GPUs: ResNet-50, 224 px, bf16
    srun python benchmarks/scaling.py --preset=gpu # all devices of a job

Prints one JSON object a line for each number of devices: the work and memory of one device, relative to the step on one
(1 would be perfect), and the bytes that it exchanges, by kind of collective, from the compiled program. On accelerators
also views a second and the share of them that each further device adds (`efficiency`). Forced CPU devices share the
cores, so that their speed says nothing, and is not given.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import time
from typing import Any

from absl import app, flags, logging

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax
import numpy as np

from radnet_jax import distributed, sharding
from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.optim import make_optimizer
from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter
from radnet_jax.schedules import constant
from radnet_jax.step import compiled_init, compiled_prepare, compiled_step

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(size=32, batch=16, model="resnet18", backbone=dict(base_width=16)),
    "gpu": dict(size=224, batch=256, model="resnet50", backbone=dict(dtype="bfloat16")),
}
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Size of network, image and batch.")
_BATCH = flags.DEFINE_integer("batch", None, "Examples on each device, in place of the preset's.")
_DEVICES = flags.DEFINE_multi_integer("devices", [1, 2, 4, 8], "Numbers of devices.")
_FSDP = flags.DEFINE_boolean("fsdp", False, "Divide kernels over the devices.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that some steps are timed.")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps that are timed at a time.")


class Trial:
    """A SimCLR step, with its views, on some devices."""

    def __init__(self, devices: int, preset: dict[str, Any]):
        size, per_device = (preset["size"],) * 2, _BATCH.value or preset["batch"]
        stored = StoredPixels("CT", "HU", (-1024.0, 3071.0), size, 1, "pad_area", "int16")
        seen = ModelInput("CT", 3, size, ((40.0, 400.0),), None, (0.5,) * 3, (0.25,) * 3)
        adapter, recipe = make_adapter(stored, seen), AUGMENTATIONS.build("ct")
        objective = OBJECTIVES.build("simclr", backbone=MODELS.build(preset["model"], preset["backbone"]))
        tx = make_optimizer("lars", constant(0.1), weight_decay=1e-6)
        rules = sharding.make_rules([(".*kernel", "largest")] if _FSDP.value else [])
        self.mesh = sharding.make_mesh(devices)
        self.batch = per_device * devices
        rows = np.random.default_rng(jax.process_index()).integers(
            -1000, 1000, (self.batch // jax.process_count(), *size, 1)
        )
        self.images = sharding.put_batch({"image": rows.astype(np.int16)}, self.mesh)
        views = np.zeros((1, 2, *size, 3), np.float32)
        self.state = compiled_init(objective, tx, self.mesh, rules)(0, {"views": views})
        stage = compiled_prepare(objective.requires, adapter, recipe, self.mesh)
        self.prepare = stage.lower(self.images, 0, 0).compile()
        step = compiled_step(objective, tx, self.mesh, fsdp=rules)
        self.step = step.lower(self.state, self.prepare(self.images, 0, 0), 0).compile()

    def run(self, steps: int) -> float:
        """Does some steps; returns views a second."""
        began = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.prepare(self.images, 0, 0), 0)
        jax.block_until_ready(metrics)
        return 2 * self.batch * steps / (time.perf_counter() - began)

    def work(self) -> float:
        """Floating point operations of one device in a step, with its views."""
        return sum(c.cost_analysis()["flops"] for c in (self.prepare, self.step))

    def memory(self) -> dict[str, float]:
        """MiB of one device: the state, and what the step needs beside it."""
        analysis = self.step.memory_analysis()
        temporary = analysis.temp_size_in_bytes if analysis else 0
        return {"state": sharding.bytes_on_device(self.state) / 2**20, "temporary": temporary / 2**20}

    def exchanged(self) -> dict[str, float]:
        """MiB that one device gets in a step, by kind of collective."""
        sizes = sharding.collectives(self.prepare.as_text() + self.step.as_text())
        return {kind: round(sum(values) / 2**20, 3) for kind, values in sorted(sizes.items())}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    distributed.start(None, None, None)
    available = len(jax.devices())
    counts = [n for n in _DEVICES.value if n <= available] if jax.process_count() == 1 else [available]
    first: dict[str, float] = {}
    for devices in counts:
        trial = Trial(devices, PRESETS[_PRESET.value])
        record = {
            "devices": devices,
            "processes": jax.process_count(),
            "kind": jax.devices()[0].device_kind,
            "preset": _PRESET.value,
            "batch": trial.batch,
            "fsdp": _FSDP.value,
            "gflop_of_a_device": round(trial.work() / 1e9, 3),
            "mib_of_a_device": {k: round(v, 1) for k, v in trial.memory().items()},
            "mib_exchanged": trial.exchanged(),
        }
        trial.run(2)
        if jax.default_backend() != "cpu":
            rate = statistics.median(trial.run(_STEPS.value) for _ in range(_ROUNDS.value))
            record["views_per_s"] = round(rate)
            first.setdefault("rate_of_a_device", rate / devices)
            record["efficiency"] = round(rate / devices / first["rate_of_a_device"], 3)
        first.setdefault("work", trial.work())
        record["work_of_one"] = round(trial.work() / first["work"], 3)
        record["versions"] = {p: importlib.metadata.version(p) for p in ("jax", "jaxlib")}
        if distributed.is_first():
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
