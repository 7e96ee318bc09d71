"""The SimCLR training step against the same step in PyTorch, images a second in one run.

    python benchmarks/train_step.py                                       # ResNet-18, 64 px, float32, for any machine
    python benchmarks/train_step.py --depth=50 --size=224 --batch=8 --core=0
    python benchmarks/train_step.py --preset=gpu --out=benchmarks/results --peer_python=OTHER/bin/python
    python benchmarks/train_step.py --preset=gpu --deterministic --nopeers

Ours is the compiled step of the training loop with `objectives/simclr.py`; the peer is `peers/torch_simclr.py`, plain
and under `torch.compile`, with the same network, batch, size, loss and optimizer (SGD with momentum and decay). Each
side is a process of its own, so that neither sees the other's threads or memory; on a GPU all hold their memory at the
same time, and JAX takes it as needed. Sides take turns; a round is some steps and a wait. The ratio is the median over
the rounds of our images a second against the peer's of the same round. Two views of each example are two images. The
views themselves are timed apart, against kornia's, or where it is missing torchvision's. `--core` pins every side to
one core with one thread and counts processor time, so that other load on the machine counts little; without it, PyTorch
loses many times as much as JAX to a busy core.

Prints one JSON object a line. Nothing is fetched. The GPU's preset is meant to end in 9 minutes.
"""

from __future__ import annotations

import sys
from typing import Any

from absl import app, flags
from peers import rounds, sides

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
_PEERS = flags.DEFINE_bool("peers", True, "PyTorch's sides too.")
_LIMIT = flags.DEFINE_integer("limit", 3600, "Seconds for everything; a side that is ready too late is left out.")
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


def start(name: str) -> sides.Side:
    if name.startswith("ours"):
        return sides.ours(__file__, deterministic=name == "ours_deterministic", limit=_LIMIT.value)
    s = settings() | {"stored": stored_size(settings()), "compiled": name != "torch", "core": _CORE.value}
    return sides.peer(_PEER_PYTHON.value, "torch_simclr", s, limit=_LIMIT.value)


def main(argv: list[str]) -> None:
    del argv
    s, told = settings(), sides.Told()
    if _OURS.value:
        rounds.serve(lambda: ours(s), "jax", s["steps"], _CORE.value)
        return
    names = ["ours", *(["ours_deterministic"] if _DETERMINISTIC.value else [])]
    names += ["torch", "torch_compiled"] if _PEERS.value else []
    running = sides.started(names, start, told)
    for part in _PARTS:
        told.measure(running, part, rounds=s["rounds"], images=2 * s["batch"] * s["steps"])
    told.end(running, "train_step", _OUT.value, _CORE.value, preset=_PRESET.value, **s)


if __name__ == "__main__":
    app.run(main)
