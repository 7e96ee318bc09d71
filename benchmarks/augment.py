"""What two augmented views cost, as a share of the SimCLR step that they feed.

    python benchmarks/augment.py --stored=72 --size=64 --batch=128

Prints one JSON object a line for each pretraining recipe. Rounds alternate between the views and the step (ResNet-18,
NT-Xent), so that other load on the machine meets both alike.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import time
from typing import Any

from absl import app, flags
import jax
import numpy as np
import optax

from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.augment.views import make_views
from radnet_jax.losses.ntxent import nt_xent
from radnet_jax.models import MODELS
from radnet_jax.models.heads import Projector
from radnet_jax.optim import make_optimizer
from radnet_jax.preprocessing import Adapter, ModelInput, StoredPixels, make_adapter
from radnet_jax.schedules import constant

_STORED = flags.DEFINE_integer("stored", 72, "Pixels a side of the records.")
_SIZE = flags.DEFINE_integer("size", 64, "Pixels a side of a view.")
_BATCH = flags.DEFINE_integer("batch", 128, "Examples a step; two views of each.")
_WIDTH = flags.DEFINE_integer("base_width", 16, "Width of the ResNet-18.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed calls of each.")


def contract(recipe: str) -> tuple[Adapter, np.ndarray]:
    """Returns the preprocessing contract of a recipe's data, and a batch of stored pixels."""
    rng = np.random.default_rng(0)
    stored, size = (_STORED.value,) * 2, (_SIZE.value,) * 2
    mean, std = (0.5,) * 3, (0.25,) * 3
    if recipe == "ct":
        source = StoredPixels("CT", "HU", (-1024.0, 3071.0), stored, 1, "pad_area", "int16")
        target = ModelInput("CT", 3, size, ((40.0, 400.0),), None, mean, std)
        image = rng.integers(-1024, 1000, (_BATCH.value, *stored, 1)).astype(np.int16)
    else:
        modality, channels = ("photo", 3) if recipe == "simclr" else ("XR", 1)
        source = StoredPixels(modality, "none", (0.0, 255.0), stored, channels, "pad_area", "uint8")
        target = ModelInput(modality, 3, size, (), (0.0, 255.0), mean, std)
        image = rng.integers(0, 256, (_BATCH.value, *stored, channels)).astype(np.uint8)
    return make_adapter(source, target), image


def simclr_step(views: jax.Array) -> Callable[[], None]:
    """Returns a call that does one SimCLR update on the views."""
    net, projector = MODELS.build("resnet18", dict(base_width=_WIDTH.value)), Projector()
    folded = views.reshape(-1, *views.shape[2:])
    backbone = jax.jit(lambda x: net.init(jax.random.key(0), x, train=False))(folded[:1])
    head = jax.jit(lambda x: projector.init(jax.random.key(1), x, train=False))(np.zeros((1, net.width), np.float32))
    tx = make_optimizer("lars", constant(0.1), weight_decay=1e-6)

    def loss(params: Any, x: jax.Array) -> Any:
        variables = {"params": params[0], "batch_stats": backbone["batch_stats"]}
        out, new_backbone = net.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {"params": params[1], "batch_stats": head["batch_stats"]}
        z, new_head = projector.apply(variables, out["pooled"], train=True, mutable=["batch_stats"])
        value, metrics = nt_xent(z.reshape(*views.shape[:2], -1), temperature=0.1)
        return value, (metrics, new_backbone, new_head)

    @jax.jit
    def step(params: Any, opt_state: Any, x: jax.Array) -> Any:
        gradients, aux = jax.grad(loss, has_aux=True)(params, x)
        change, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, change), opt_state, aux

    params = (backbone["params"], head["params"])
    carry = [params, tx.init(params)]

    def run() -> None:
        carry[0], carry[1], _ = jax.block_until_ready(step(*carry, folded))

    run()
    return run


def main(argv: list[str]) -> None:
    del argv
    step = None
    for name in ("ct", "chest_xray", "simclr"):
        adapter, image = contract(name)
        recipe, key = AUGMENTATIONS.build(name), jax.random.key(0)
        views = jax.block_until_ready(make_views(image, adapter, recipe, key, 2))
        step = step or simclr_step(views)
        seconds: dict[str, list[float]] = {"views": [], "step": []}
        for _ in range(_ROUNDS.value):
            start = time.perf_counter()
            jax.block_until_ready(make_views(image, adapter, recipe, key, 2))
            middle = time.perf_counter()
            step()
            seconds["views"].append(middle - start)
            seconds["step"].append(time.perf_counter() - middle)
        views_s, step_s = np.array(seconds["views"]), np.array(seconds["step"])
        record = {
            "recipe": name,
            "what": f"2 views of {_BATCH.value} images, {_STORED.value} to {_SIZE.value} px, width {_WIDTH.value}",
            "platform": jax.default_backend(),
            "views_ms": round(1e3 * float(np.median(views_s)), 1),
            "step_ms": round(1e3 * float(np.median(step_s)), 1),
            "share_of_step": round(float(np.median(views_s / step_s)), 3),
            "views_per_s": round(2 * _BATCH.value / float(np.median(views_s))),
            "jax": jax.__version__,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
