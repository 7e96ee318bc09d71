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

import sys
from typing import Any

from absl import app, flags
from peers import rounds, sides

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(depth=18, size=128, batch=4, classes=3, steps=1, rounds=7),
    "gpu": dict(depth=50, size=256, batch=64, classes=3, steps=20, rounds=7),
}
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Size of everything.")
_SIZE = flags.DEFINE_integer("size", None, "Pixels a side, in place of the preset's.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of a round, in place of the preset's.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "Timed rounds of each side, in place of the preset's.")
_LIMIT = flags.DEFINE_integer("limit", 3600, "Seconds for everything; a side that is ready too late is left out.")
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


def main(argv: list[str]) -> None:
    del argv
    given = dict(size=_SIZE.value, steps=_STEPS.value, rounds=_ROUNDS.value)
    s, told = PRESETS[_PRESET.value] | {k: v for k, v in given.items() if v is not None}, sides.Told()
    if _OURS.value:
        rounds.serve(lambda: ours(s), "jax", s["steps"], _CORE.value)
        return

    def start(name: str) -> sides.Side:
        if name == "ours":
            return sides.ours(__file__, limit=_LIMIT.value)
        asked = s | {"compiled": name == "smp_compiled", "core": _CORE.value}
        return sides.peer(_PEER_PYTHON.value, "torch_unet", asked, limit=_LIMIT.value)

    running = sides.started(("ours", "smp", "smp_compiled"), start, told)
    told.measure(running, "step", rounds=s["rounds"], images=s["batch"] * s["steps"])
    told.end(running, "segmentation_step", _OUT.value, _CORE.value, preset=_PRESET.value, **s)


if __name__ == "__main__":
    app.run(main)
