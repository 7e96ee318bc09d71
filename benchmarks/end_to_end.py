"""Views a second from records on disk to the update, against the same loop without input, in one run.

    python benchmarks/end_to_end.py                  # ResNet-10 of width 8 at 32 px, for any machine
    python benchmarks/end_to_end.py --preset=gpu     # ResNet-50, 224 px, bf16; under 9 minutes on one H200

Draws a CT corpus, builds the dataset as a user does (DICOM to int16 records), and pretrains by SimCLR through the
whole training loop: reading, shuffling, views, update, logging. Runs from records alternate with runs of
`data.synthetic`, whose one batch stays on the device. Prints one JSON object a line for each run, whose rate is the
median over its log rows after the first two (compilation, filling of queues), and one for the whole: `of_synthetic` is
the median over the rounds of the ratio of the two rates; 0.95 is wanted on a GPU.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
import shutil
import statistics
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict

from data_prep.build import build
from data_prep.phantom import REGIONS, write_ct
from radnet_jax import train
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config

ROOT = Path(__file__).parent.parent
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(
        size=32, images=960, batch=64, steps=40, log_every=2, backbone=dict(name="resnet10", base_width=8), rounds=5
    ),
    "gpu": dict(
        size=224, images=12_288, batch=256, steps=100, log_every=10, backbone=dict(name="resnet50", dtype="bfloat16"),
        rounds=4,
    ),
}  # fmt: skip
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Size of everything.")
_BATCH = flags.DEFINE_integer("batch", None, "Examples a step, in place of the preset's.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of each run, in place of the preset's.")
_IMAGES = flags.DEFINE_integer("images", None, "Slices of the drawn corpus, in place of the preset's.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "Runs of each side, in place of the preset's.")
_DATASET = flags.DEFINE_string("dataset", "", "A built CT dataset with a train split, in place of a drawn one.")
_SLICES = 20  # of each drawn patient


def dataset(folder: Path, preset: dict[str, Any]) -> Path:
    """Draws a corpus and builds it; returns the dataset's folder."""
    patients = -(-preset["images"] // (_SLICES * len(REGIONS)))
    write_ct(folder / "dicom", patients_per_region=patients, slices=_SLICES, image_size=preset["size"])
    workers = len(os.sched_getaffinity(0))
    quiet = {"log": lambda *_: None}
    build(
        "radnet", folder / "dicom", folder / "dataset", size=preset["size"], splits=("train",), workers=workers, **quiet
    )
    shutil.rmtree(folder / "dicom")
    return folder / "dataset"


def config(data: Path, preset: dict[str, Any], synthetic: bool) -> ConfigDict:
    loaded = load_config(ROOT / "configs" / "pretrain" / "simclr.py", f"size={preset['size']}")
    steps = _STEPS.value or preset["steps"]
    changes = {
        "data": {**loaded.data.to_dict(), "dir": str(data), "synthetic": synthetic},
        "backbone": preset["backbone"],
        "batch_size": _BATCH.value or preset["batch"],
        "total_steps": steps,
        "schedule": {**loaded.schedule.to_dict(), "warmup_steps": 1},
        "log_every": preset["log_every"],
        "checkpoint": {"every": steps, "keep": 1},
        "eval_batch_size": len(jax.devices()),
    }
    return ConfigDict(loaded.to_dict() | changes).lock()


def rate(config: ConfigDict, workdir: Path) -> dict[str, float]:
    """Runs the loop; returns views a second and the share of time that it waited for input."""
    train.run(config, workdir)
    rows = ledger.read_curves(workdir)[2:]
    shutil.rmtree(workdir)
    return {
        "views_per_s": 2 * statistics.median(row["examples_per_s"] for row in rows),
        "input_wait": statistics.median(row["share_input_wait"] for row in rows),
    }


def main(argv: list[str]) -> None:
    del argv
    given = {"images": _IMAGES.value, "rounds": _ROUNDS.value}
    preset = PRESETS[_PRESET.value] | {k: v for k, v in given.items() if v is not None}
    if (_STEPS.value or preset["steps"]) < 4 * preset["log_every"]:
        raise app.UsageError(f"--steps: at least {4 * preset['log_every']}, so that some log rows are left to measure")
    began = time.perf_counter()
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = Path(_DATASET.value) if _DATASET.value else dataset(folder, preset)
        prepared = time.perf_counter() - began
        sides = {"records": config(data, preset, False), "synthetic": config(data, preset, True)}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        rate(sides["records"], folder / "warm")  # compiles
        for number in range(preset["rounds"]):
            for side in sorted(sides, reverse=number % 2 == 1):
                values = rate(sides[side], folder / side)
                rates[side].append(values["views_per_s"])
                shown = {k: round(v, 4) for k, v in values.items()}
                print(json.dumps({"round": number, "side": side, **shown}), flush=True)
        ratios = [a / b for a, b in zip(rates["records"], rates["synthetic"], strict=True)]
        device = jax.devices()[0]
        record = {
            "preset": _PRESET.value,
            "device": f"{len(jax.devices())} x {device.device_kind}",
            "cores": len(os.sched_getaffinity(0)),
            "batch": sides["records"].batch_size,
            "backbone": preset["backbone"],
            "size": preset["size"],
            **{f"views_per_s_{side}": round(statistics.median(values), 1) for side, values in rates.items()},
            "of_synthetic": round(statistics.median(ratios), 3),
            "seconds_of_preparation": round(prepared, 1),
            "seconds": round(time.perf_counter() - began, 1),
            "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "array-record")},
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
