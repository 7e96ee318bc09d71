"""What weights cost to bring in, to hand out and to use, and what their scale does to a fine-tuning.

    python benchmarks/weights.py                 # a ResNet-50: import, export, first features
    python benchmarks/weights.py --part=scale    # one function at three scales of weights, fine-tuned at one rate

Prints one JSON object a line. Every command of the first part is a process of its own, started cold and without a
compilation cache; `memory_of_file` is its peak memory over that after its imports, divided by the size of the file.
The file is written by PyTorch where that is installed, else as safetensors.

The second part trains a small ResNet on generated CT slices (body regions), multiplies its kernels by 1/4, 1 and 16.8
(SimCLR v1's over v2's) so that it computes the same, imports each with and without `rescale`, and fine-tunes all of
them alike, with Adam, on other patients.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict
import numpy as np

ROOT = Path(__file__).parent.parent
_PART = flags.DEFINE_enum("part", "cost", ["cost", "scale"], "Which question.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each command runs; medians are printed.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Fine-tunings of each start, part scale.")
_FACTORS = (0.25, 1.0, 16.8)
_SECTION = {"name": "resnet10", "base_width": 8}

# Runs in a process of its own: (module, function, settings) -> seconds and memory of the call alone.
_CHILD = """
import importlib, json, resource, sys, time
def rss():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS")) * 1024
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
kind, config, workdir = sys.argv[1:4]
from radnet_jax.main import load_config
loaded = load_config(f"configs/{kind}.py").copy_and_resolve_references()
loaded.unlock()
loaded.update(json.loads(config))
kinds = {"import": "radnet_jax.weights.importing", "export": "radnet_jax.weights.exporting"}
runner = importlib.import_module(kinds[kind])
before, began = rss(), time.perf_counter()
runner.run(loaded.lock(), workdir)
print(json.dumps({"call_s": time.perf_counter() - began, "over_imports": peak() - before}))
"""
_FEATURES = """
import time
began = time.perf_counter()
import sys, numpy as np, radnet_jax
features = radnet_jax.load(sys.argv[1])(np.zeros((224, 224, 3), np.uint8))
assert features.shape == (1, 2048)
print(time.perf_counter() - began)
"""


def _child(code: str, *arguments: str) -> tuple[float, str]:
    """Returns the wall time of a fresh process, and the last line that it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, done.stdout.splitlines()[-1]


def _file(folder: Path) -> tuple[Path, str]:
    """A ResNet-50 with torchvision's names and random weights, with its classifier."""
    from radnet_jax.weights import layouts
    from radnet_jax.weights.containers import safetensors
    from radnet_jax.weights.exporting import theirs

    rng = np.random.default_rng(0)
    section = {"name": "resnet50"}
    arrays = {k: np.abs(rng.normal(size=s)).astype(np.float32) for k, s in layouts.shapes_of(section).items()}
    state = theirs(arrays, section, "torchvision")
    state |= {"fc.weight": np.ones((1000, 2048), np.float32), "fc.bias": np.ones(1000, np.float32)}
    if importlib.util.find_spec("torch"):
        import torch

        torch.save({k: torch.tensor(np.array(v)) for k, v in state.items()}, folder / "resnet50.pth")
        return folder / "resnet50.pth", "torch"
    safetensors.write(folder / "resnet50.safetensors", state, {"format": "pt"})
    return folder / "resnet50.safetensors", "safetensors"


def cost(folder: Path) -> None:
    """Import, export and first features of a ResNet-50."""
    path, kind = _file(folder)
    size = path.stat().st_size
    importing = {"source": "supervised_resnet", "file": str(path), "backbone": "resnet50"}
    exporting = {"run_dir": str(folder / "import-0"), "formats": ["safetensors", "npz"]}
    commands: list[tuple[str, dict[str, Any]]] = [("import", importing), ("export", exporting)]
    for name, settings in commands:
        walls, calls, memory = [], [], []
        for i in range(_ROUNDS.value):
            wall, line = _child(_CHILD, name, json.dumps(settings), str(folder / f"{name}-{i}"))
            result = json.loads(line)
            walls.append(wall)
            calls.append(result["call_s"])
            memory.append(result["over_imports"] / size)
        _print(
            benchmark=f"weights_{name}", container=kind, mib=size / 2**20, wall_s=statistics.median(walls),
            call_s=statistics.median(calls), memory_of_file=statistics.median(memory),
        )  # fmt: skip
    firsts = [float(_child(_FEATURES, str(folder / "import-0"))[1]) for _ in range(_ROUNDS.value)]
    _print(benchmark="weights_first_features", wall_s=statistics.median(firsts), slowest_s=max(firsts))


def scale(folder: Path) -> None:
    """Fine-tunes one function at three scales of its weights, at one rate."""
    from radnet_jax import starts
    from radnet_jax.checkpoint import load_arrays
    from radnet_jax.evaluation import ledger
    from radnet_jax.weights import importing, inspecting
    from radnet_jax.weights import scale as scaling
    from radnet_jax.weights.containers import safetensors
    from radnet_jax.weights.exporting import theirs
    from radnet_jax.weights.folder import of_backbone

    data = [_dataset(folder / name, seed, patients) for name, seed, patients in (("a", 0, 10), ("b", 1, 6))]
    _train(data[0], folder / "pretraining", init_from="", steps=150, rate=3e-3, seed=0)
    start = starts.find_start(str(folder / "pretraining"))
    assert start.folder is not None
    arrays = of_backbone(load_arrays(start.folder)[0], start.kept)
    for factor in _FACTORS:
        scaled = scaling.multiply(arrays, _SECTION, lambda kernel, factor=factor: factor)
        path = folder / f"{factor}.safetensors"
        safetensors.write(path, theirs(scaled, _SECTION, "torchvision"), {"format": "pt"})
        for rescale in ("none", "initial"):
            workdir = folder / f"{factor}-{rescale}"
            config = _load("import").copy_and_resolve_references()
            config.unlock()
            config.update(source="torchvision_file", file=str(path), backbone="resnet10", rescale=rescale)
            config.update(arguments={"base_width": 8}, input=start.model_input.to_json())
            importing.run(config.lock(), workdir)
            norm = inspecting.norms(of_backbone(load_arrays(workdir / "checkpoints" / "0")[0], "online"))["total"]
            values = []
            for seed in range(_SEEDS.value):
                out = folder / f"tuned-{factor}-{rescale}-{seed}"
                _train(data[1], out, init_from=str(workdir), steps=40, rate=1e-3, seed=seed)
                values.append(ledger.read_run(out).metrics["test"]["accuracy"]["value"])
            _print(
                benchmark="weights_scale", factor=factor, rescale=rescale, norm=norm,
                test_accuracy=statistics.mean(values), lowest=min(values), highest=max(values), seeds=len(values),
            )  # fmt: skip


def _dataset(folder: Path, seed: int, patients: int) -> Path:
    from data_prep.build import build
    from data_prep.phantom import write_ct

    write_ct(folder / "dicom", patients_per_region=patients, slices=8, image_size=48, seed=seed)
    quiet: dict[str, Any] = {"log": lambda *_: None}
    build("radnet", folder / "dicom", folder / "dataset", size=32, splits=("train", "val", "test"), **quiet)
    return folder / "dataset"


def _load(name: str, variant: str = "") -> ConfigDict:
    from radnet_jax.main import load_config

    return load_config(ROOT / "configs" / f"{name}.py", variant)


def _train(data: Path, workdir: Path, *, init_from: str, steps: int, rate: float, seed: int) -> None:
    from configs.common import ct_input
    from radnet_jax import train

    config = _load("finetune/classification", "domain=ct,smoke").to_dict()
    config |= {
        "seed": seed,
        "data": config["data"] | {"dir": str(data)},
        "init_from": init_from,
        "input": None if init_from else ct_input(32),
        "backbone": _SECTION,
        "batch_size": 32,
        "eval_batch_size": 64,
        "total_steps": steps,
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "schedule": {"name": "warmup_cosine", "base_lr": rate, "warmup_steps": 4},
        "checkpoint": {"every": steps, "keep": 1},
        "tags": config["tags"] | {"task": "body_region", "start": "start"},
    }
    train.run(ConfigDict(config).lock(), workdir)


def _print(**values: Any) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        {"cost": cost, "scale": scale}[_PART.value](Path(folder))


if __name__ == "__main__":
    app.run(main)
