"""All that is to be measured on a GPU, in one command that ends inside 9 minutes, and a file of it.

    python benchmarks/gpu.py --out=benchmarks/results
    python benchmarks/gpu.py --part=step --part=views    # some of it
    python benchmarks/gpu.py --smoke                     # each part at a tiny size on any machine: does it run?

A part is a script of this folder, in a process of its own with a time limit of its own; what one leaves of its time
goes to those after it. One that fails or hangs leaves what it has printed, and the others go on:

- bootstrap: 10,000 resamples x 14 labels x 25,596 cases on the device (statistics.py);
- end_to_end: views a second from records on disk, and of the same loop without input (end_to_end.py);
- step: the SimCLR step against PyTorch, plain and compiled (train_step.py);
- views: two augmented views of each recipe as a share of the ResNet-50 step (augment.py);
- deterministic: the same step with XLA's flags for exact repeats against itself without them;
- segmentation: the U-Net step against segmentation_models_pytorch, where that is installed (segmentation_step.py);
- only where they are asked for, resume: kills of a --deterministic run, whose bits are then those of one that was left
  alone (resume.py), and forms: the forms of each operation of augmentation (augment.py).

OUT/<device>.json is written anew after each part, with versions, driver and XLA's flags; what it holds of other parts
stays, if it is of the same device and versions. Nothing is fetched, and the package need not be installed.

Exits with 1 where a part failed, and with 2 where there is no GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package need not be installed

from radnet_jax import xla_flags
from radnet_jax.errors import UserError

FOLDER = Path(__file__).resolve().parent


class Part(NamedTuple):
    """`seconds` is its limit, `smoke` what is added to the command for the tiny size."""

    seconds: int
    command: str
    smoke: str


_TINY = "--backbone=resnet10 --base_width=8 --stored=36 --size=32 --batch=4 --rounds=1"
PARTS = {
    "bootstrap": Part(35, "statistics.py --part=device", "--cases=5000 --labels=2 --resamples=200"),
    "end_to_end": Part(
        145,
        "end_to_end.py --preset=gpu --images=3072 --rounds=2 --steps=60",
        "--preset=cpu --images=120 --rounds=1 --steps=8 --batch=16",
    ),
    "step": Part(
        160,
        "train_step.py --preset=gpu --batch=96 --rounds=5",  # all sides fit into 80 GiB
        "--preset=cpu --depth=10 --base_width=8 --size=32 --batch=4 --rounds=1",
    ),
    "views": Part(65, "augment.py --part=share --batch=256", _TINY),
    "deterministic": Part(
        60,
        "train_step.py --preset=gpu --batch=96 --deterministic --nopeers --rounds=5 --steps=10",
        "--preset=cpu --depth=10 --base_width=8 --size=32 --batch=4 --rounds=1 --steps=1",
    ),
    "segmentation": Part(
        50, "segmentation_step.py --preset=gpu --rounds=5 --steps=10", "--preset=cpu --size=64 --rounds=1 --steps=1"
    ),
    "resume": Part(200, "resume.py --kills=3 --steps=60 --deterministic", "--kills=1 --steps=12"),
    "forms": Part(120, "augment.py --part=forms --batch=128 --rounds=3", _TINY),
}
DEFAULT = [name for name in PARTS if name not in ("resume", "forms")]
LIMIT = 530  # seconds for everything
LEAST = 15  # a part that has less is not started
_WITH_SIDES = ("step", "deterministic", "segmentation")  # that are left out where they start too slowly
_OURS = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "array-record")
_THEIRS = ("torch", "torchvision", "triton", "kornia", "segmentation-models-pytorch")

_PART = flags.DEFINE_multi_enum("part", DEFAULT, list(PARTS), "What to measure; may be given several times.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes, on any machine: the figures say nothing.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "Python of the environment with PyTorch.")
_OUT = flags.DEFINE_string("out", "", "Folder for the file of the results, which is named by the device.")

_DEVICES = """
import json, jax
d = jax.devices()
print(json.dumps({"platform": d[0].platform, "device": d[0].device_kind, "devices": len(d)}))
"""
_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | {p: found[p] for p in sys.argv[1:] if p in found}))
"""


def asked(python: str, code: str, *arguments: str) -> dict[str, Any]:
    """Returns the JSON object that a few lines of Python print last, in a process of their own."""
    doctor = "python -m radnet_jax.main --doctor says more"
    try:
        done = subprocess.run(
            [python, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python} can't be asked", got=type(error).__name__, fix=doctor) from error
    if done.returncode:
        raise UserError(f"{python} failed", got=_last_line(done.stderr), fix=doctor)
    return json.loads(done.stdout.splitlines()[-1])


def driver() -> str:
    """Returns name, driver and memory of the GPUs; "none" without the driver's own tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return "; ".join(done.stdout.split("\n")).strip("; ") or "none"


def machine() -> dict[str, Any]:
    """Returns what the figures belong to; refuses a machine without a GPU but for `--smoke`."""
    seen = asked(sys.executable, _DEVICES)
    if seen["platform"] not in ("gpu", "cuda", "rocm") and not _SMOKE.value:
        fix = "pip install -c constraints.txt -e '.[cuda]'" if xla_flags.nvidia_driver() else "--smoke runs anywhere"
        raise UserError("jax sees no GPU", got=f"{seen['devices']} x {seen['device']}", expected="one GPU", fix=fix)
    return {
        "preset": "smoke" if _SMOKE.value else "gpu",
        **seen,
        "driver": driver(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": asked(sys.executable, _VERSIONS, *_OURS),
        "versions_of_peers": asked(_PEER_PYTHON.value, _VERSIONS, *_THEIRS),
        "xla_flags": xla_flags.in_effect(os.environ),
    }


def run(command: list[str], limit: float) -> dict[str, Any]:
    """Runs a part for at most `limit` seconds; returns how it ended, its seconds, and the JSON objects that it printed.

    All that it has started ends with it.
    """
    began, records = time.perf_counter(), []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                with contextlib.suppress(json.JSONDecodeError):
                    records.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code = process.wait(timeout=limit)
            ended = "ok" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {limit:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(timeout=10)
        errors.seek(0)
        said = {} if ended == "ok" else {"said": _last_line(errors.read())}
    return {"ended": ended, **said, "seconds": round(time.perf_counter() - began, 1), "records": list(records)}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()[:400]


def file_of(told: dict[str, Any]) -> Path | None:
    """Returns where the results go, and takes over what lies there of other parts, of this machine and versions."""
    if not _OUT.value:
        return None
    path = Path(_OUT.value) / f"{re.sub(r'[^a-z0-9]+', '_', told['device'].lower()).strip('_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        before = json.loads(path.read_text())
        if all(before.get(k) == v for k, v in told.items()):
            told["parts"] = before["parts"]
    return path


def write(path: Path, told: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(told, indent=1) + "\n")
    os.replace(unfinished, path)


def main(argv: list[str]) -> int:
    del argv
    end = time.perf_counter() + LIMIT
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        xla_flags.set_flags(os.environ, deterministic=False)  # as a run has them
        told = machine()
        print(json.dumps(told), flush=True)
        path = file_of(told)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told.setdefault("parts", {})
    names = [name for name in PARTS if name in _PART.value]
    with tempfile.TemporaryDirectory() as compiled:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)  # "deterministic" has a program of "step"
        for number, name in enumerate(names):
            part = PARTS[name]
            limit = end - time.perf_counter() - sum(PARTS[later].seconds for later in names[number + 1 :])
            words = [*part.command.split(), *(part.smoke.split() if _SMOKE.value else [])]
            shown = {"command": " ".join(words)}
            if name in _WITH_SIDES:
                words += [f"--peer_python={os.path.abspath(_PEER_PYTHON.value)}", f"--limit={max(limit - 5, 0):.0f}"]
            if limit < LEAST:
                told["parts"][name] = shown | {"ended": f"not started: {limit:.0f} s left", "seconds": 0, "records": []}
            else:
                told["parts"][name] = shown | run([sys.executable, *words], limit)
            if path:
                write(path, told)
    for name in names:
        ended = {k: v for k, v in told["parts"][name].items() if k in ("ended", "said", "seconds")}
        print(json.dumps({"part": name, **ended}), flush=True)
    return int(any(told["parts"][name]["ended"] != "ok" for name in names))


if __name__ == "__main__":
    app.run(main)
