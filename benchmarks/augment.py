"""What augmented views cost: against other libraries, by operation, by form, and as a share of the step they feed.

    python benchmarks/augment.py
    python benchmarks/augment.py --part=peers --peer_python=OTHER_ENVIRONMENT/bin/python
    python benchmarks/augment.py --part=share --backbone=resnet18 --base_width=16 --stored=72 --size=64 --batch=128

Prints one JSON object a line. Parts, all by default:

- peers: two SimCLR views of each image, images a second for each core, on CPU. Each side is a process of its own with
  one thread, pinned to the same core. `peer_python` names an environment with albumentations or torchvision; without
  them only ours runs.
- operations: what each operation adds to a crop, microseconds a view.
- forms: the forms of an operation (radnet_jax/augment/forms.py) against each other on this device.
- share: two views of each recipe against the SimCLR step (NT-Xent, LARS) that they feed, on this device.

Sides take turns in rounds, medians of rounds are printed. On CPU seconds are processor time, of all threads, so that
other load on the machine counts little; elsewhere they are wall-clock time. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from radnet_jax.augment import AUGMENTATIONS, draws, filters, forms, geometry
from radnet_jax.augment.recipes import Recipe
from radnet_jax.augment.views import make_local_views, make_views
from radnet_jax.losses.ntxent import nt_xent
from radnet_jax.models import MODELS
from radnet_jax.models.heads import Projector
from radnet_jax.optim import make_optimizer
from radnet_jax.preprocessing import Adapter, ModelInput, StoredPixels, make_adapter
from radnet_jax.schedules import constant

_PARTS = ("peers", "operations", "forms", "share")
_PART = flags.DEFINE_multi_enum("part", list(_PARTS), _PARTS, "What to measure; may be given several times.")
_STORED = flags.DEFINE_integer("stored", 256, "Pixels a side of the records.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels a side of a view.")
_BATCH = flags.DEFINE_integer("batch", 0, "Examples a step, two views of each; 0 is 16 on CPU, 512 elsewhere.")
_BACKBONE = flags.DEFINE_string("backbone", "resnet50", "Of the step.")
_WIDTH = flags.DEFINE_integer("base_width", 64, "Width of the backbone.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed calls of each side.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "Python of the environment with other libraries.")
_CORE = flags.DEFINE_integer("core", 0, "Core that `peers` runs on.")

_WORKER = Path(__file__).parent / "peers" / "augment_worker.py"
_PEERS = ("albumentations", "albumentations_uint8", "torchvision")


def batch_size() -> int:
    return _BATCH.value or (16 if jax.default_backend() == "cpu" else 512)


def emit(**record: Any) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
    print(json.dumps(rounded | {"device": jax.devices()[0].device_kind, "jax": jax.__version__}), flush=True)


def in_turns(sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Returns seconds of each side's calls, one round after another: processor time on CPU, else wall-clock time."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for side in sides.values():
        jax.block_until_ready(side())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, side in sides.items():
            start = clock()
            jax.block_until_ready(side())
            seconds[name].append(clock() - start)
    return seconds


class Side:
    """A process that does a round when asked."""

    def __init__(self, name: str, colours: str):
        python = sys.executable if name == "ours" else _PEER_PYTHON.value
        arguments = [name, colours, *map(str, (_CORE.value, _STORED.value, _SIZE.value, _BATCH.value or 16))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        if name != "ours":
            environment.pop("PYTHONPATH")
        self.process = subprocess.Popen(
            [python, str(_WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.hello = json.loads(self.stdout.readline() or '{"absent": "it ended"}')

    def round(self) -> float:
        self.stdin.write("\n")
        self.stdin.flush()
        return float(json.loads(self.stdout.readline())["seconds"])

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def peers() -> None:
    count = _BATCH.value or 16
    for colours in ("rgb", "gray"):
        sides = {name: Side(name, colours) for name in ("ours", *_PEERS)}
        present = {name: side for name, side in sides.items() if "version" in side.hello}
        seconds: dict[str, list[float]] = {name: [] for name in present}
        for _ in range(_ROUNDS.value):
            for name, side in present.items():
                seconds[name].append(side.round())
        for side in sides.values():
            side.close()
        for name, side in sides.items():
            what = f"two SimCLR views of {colours} images, {_STORED.value} to {_SIZE.value} px, one core"
            if name not in present:
                emit(part="peers", what=what, side=name, absent=side.hello["absent"])
                continue
            median = statistics.median(seconds[name])
            ratio = statistics.median(s / o for s, o in zip(seconds[name], seconds["ours"], strict=True))
            emit(
                part="peers",
                what=what,
                side=name,
                version=side.hello["version"],
                images_per_core_second=count / median,
                ours_is_faster_by=ratio if name != "ours" else 1.0,
            )


def contract(channels: int, unit: str = "none") -> tuple[Adapter, jax.Array]:
    """Returns the preprocessing contract of some data, and a batch of stored pixels."""
    rng = np.random.default_rng(0)
    stored, size = (_STORED.value,) * 2, (_SIZE.value,) * 2
    mean, std = (0.5,) * 3, (0.25,) * 3
    shape = (batch_size(), *stored, channels)
    if unit == "HU":
        source = StoredPixels("CT", "HU", (-1024.0, 3071.0), stored, 1, "pad_area", "int16")
        target = ModelInput("CT", 3, size, ((40.0, 400.0),), None, mean, std)
        return make_adapter(source, target), jnp.asarray(rng.integers(-1024, 1000, shape), jnp.int16)
    modality = "photo" if channels == 3 else "XR"
    source = StoredPixels(modality, "none", (0.0, 255.0), stored, channels, "pad_area", "uint8")
    target = ModelInput(modality, 3, size, (), (0.0, 255.0), mean, std)
    return make_adapter(source, target), jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)


_CROP: dict[str, Any] = dict(crop=(0.08, 1.0), hflip=0.5)
_OPERATIONS: dict[str, dict[str, Any]] = {
    "affine": dict(rotate=15.0),
    "brightness": dict(jitter=1.0, brightness=0.8),
    "contrast": dict(jitter=1.0, contrast=0.8),
    "saturation": dict(jitter=1.0, saturation=0.8),
    "hue": dict(jitter=1.0, hue=0.2),
    "jitter, all four": dict(jitter=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
    "grayscale": dict(grayscale=1.0),
    "gamma": dict(gamma=1.0, gamma_strength=0.5),
    "sharpness": dict(sharpness=1.0),
    "blur": dict(blur=1.0),
    "solarize": dict(solarize=1.0),
    "RandAugment, two": dict(rand_augment=2),
    "gaussian noise": dict(noise=1.0, noise_std=0.05),
    "rician noise": dict(rician=1.0, rician_std=0.05),
    "erase": dict(erase=1.0),
}


def operations() -> None:
    key = jax.random.key(0)
    for channels in (3, 1):
        adapter, image = contract(channels)

        chosen = {k: v for k, v in _OPERATIONS.items() if channels == 3 or k in ("affine", "brightness", "contrast")}
        chosen |= {k: v for k, v in _OPERATIONS.items() if k in ("gamma", "blur", "gaussian noise", "rician noise")}
        local = Recipe(**_CROP, local_views=6)
        recipes = {"crop": Recipe(**_CROP)} | {name: Recipe(**_CROP, **fields) for name, fields in chosen.items()}
        sides: dict[str, Callable[[], Any]] = {
            name: functools.partial(make_views, image, adapter, recipe, key, 2) for name, recipe in recipes.items()
        }
        sides["6 local views"] = functools.partial(make_local_views, image, adapter, local, key, 2)
        seconds = in_turns(sides)
        for name, values in seconds.items():
            per_view = 1e6 / (2 * batch_size())
            alone = name in ("crop", "6 local views")
            cost = statistics.median(v if alone else v - c for v, c in zip(values, seconds["crop"], strict=True))
            emit(part="operations", operation=name, channels=channels, size=_SIZE.value, us_per_view=cost * per_view)


def _each(function: Callable[..., Any], *args: jax.Array) -> Any:
    return forms.each_row(lambda rows: function(*(a[rows] for a in args)), len(args[0]))


def _batch(function: Callable[..., Any], *args: jax.Array) -> Any:
    return function(*args)


def form_calls() -> Iterator[tuple[str, str, Callable[..., Any], tuple[jax.Array, ...]]]:
    """Yields operation, form, function and arguments."""
    size, n = (_SIZE.value,) * 2, 2 * batch_size()
    keys = draws.row_keys(jax.random.key(0), n, range(1)).ravel()
    stored = (_STORED.value,) * 2
    for channels in (3, 1):
        x = jax.random.uniform(jax.random.key(1), (n, channels, *stored))
        boxes, _ = draws.boxes(keys, "crop", stored, (0.08, 1.0), (3 / 4, 4 / 3))
        views = jax.random.uniform(jax.random.key(2), (n, channels, *size))
        sigma = draws.between(draws.uniform(keys, "sigma"), 0.1, 2.0) * min(size) / 224
        radius = max(1, int(np.ceil(6 * min(size) / 224)))
        for rows in ("each", "batch"):
            wrap = _each if rows == "each" else _batch
            for form in ("taps", "matrix"):
                crop = functools.partial(geometry.crop_and_resize, size=size, form=form)
                yield f"resample, {channels} channel(s)", f"{form}, {rows}", functools.partial(wrap, crop), (x, boxes)
            for form in ("shifts", "matrix"):
                blur = functools.partial(filters.gaussian_blur, radius=radius, form=form)
                yield f"blur, {channels} channel(s)", f"{form}, {rows}", functools.partial(wrap, blur), (views, sigma)


def compare_forms() -> None:
    calls: dict[str, dict[str, Callable[[], Any]]] = {}
    for operation, form, function, args in form_calls():
        compiled = jax.jit(function)
        calls.setdefault(operation, {})[form] = lambda compiled=compiled, args=args: compiled(*args)
    for name, channels, unit in (("simclr", 3, "none"), ("ct", 1, "HU")):
        adapter, image = contract(channels, unit)
        recipe, key = AUGMENTATIONS.build(name), jax.random.key(0)
        for form in ("each", "batch"):
            call = functools.partial(make_views, image, adapter, recipe, key, 2, form=form)
            calls.setdefault(f"rows, recipe {name}", {})[form] = call
    for operation, sides in calls.items():
        medians = {form: statistics.median(values) for form, values in in_turns(sides).items()}
        best = min(medians.values())
        for form, median in medians.items():
            us = 1e6 * median / (2 * batch_size())
            emit(part="forms", operation=operation, form=form, us_per_view=us, times_the_fastest=median / best)


def simclr_step(views: jax.Array) -> Callable[[], Any]:
    """Returns a call that does one SimCLR update on the views; bfloat16 but on CPU."""
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    net = MODELS.build(_BACKBONE.value, dict(base_width=_WIDTH.value, dtype=dtype))
    projector = Projector()
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

    def run() -> Any:
        carry[0], carry[1], aux = step(*carry, folded)
        return carry, aux

    return run


def share() -> None:
    step = None
    for name in ("ct", "chest_xray", "simclr"):
        adapter, image = contract(3 if name == "simclr" else 1, "HU" if name == "ct" else "none")
        recipe, key = AUGMENTATIONS.build(name), jax.random.key(0)
        views = functools.partial(make_views, image, adapter, recipe, key, 2)
        step = step or simclr_step(jax.block_until_ready(views()))
        seconds = in_turns({"views": views, "step": step})
        views_s, step_s = np.array(seconds["views"]), np.array(seconds["step"])
        emit(
            part="share",
            recipe=name,
            what=f"2 views of {batch_size()} images, {_STORED.value} to {_SIZE.value} px; {_BACKBONE.value}",
            base_width=_WIDTH.value,
            views_ms=1e3 * float(np.median(views_s)),
            step_ms=1e3 * float(np.median(step_s)),
            share_of_step=float(np.median(views_s / step_s)),
            views_per_second=2 * batch_size() / float(np.median(views_s)),
        )


def main(argv: list[str]) -> None:
    del argv
    parts = {"peers": peers, "operations": operations, "forms": compare_forms, "share": share}
    for part in _PART.value:
        parts[part]()


if __name__ == "__main__":
    app.run(main)
