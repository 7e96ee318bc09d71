"""What the choice of formulation in `models/conv.py` and `models/pool.py` gains: one training step of a ResNet.

    python benchmarks/conv.py --depth=18 --base_width=16 --size=64 --batch=256
    python benchmarks/conv.py --base_width=64 --batch=32 --core=0

Prints one JSON object a line for: the library's convolution and pooling throughout ("plain"), ours, and the same step
in PyTorch (channels_last, no compilation), where it is installed. Rounds alternate between them, so that other load on
the machine meets all alike; the ratios are medians over the rounds of images/s against the same round's peer. With
`--core` all run on that core with one thread, and seconds are processor time: other load on the machine slows PyTorch's
threads many times more than JAX's, and the ratios of wall-clock time then say little.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import time
from typing import Any
from unittest import mock

from absl import app, flags
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from radnet_jax.models import MODELS, resnet
from radnet_jax.optim import make_optimizer
from radnet_jax.schedules import constant

_DEPTH = flags.DEFINE_enum("depth", "18", ["18", "34", "50"], "ResNet depth.")
_WIDTH = flags.DEFINE_integer("base_width", 16, "Channels of the first stage.")
_SIZE = flags.DEFINE_integer("size", 64, "Pixels a side.")
_BATCH = flags.DEFINE_integer("batch", 256, "Images a step.")
_CORE = flags.DEFINE_integer("core", -1, "Core to be pinned to, in processor time; -1: all cores, wall-clock time.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Timed steps of each.")


def jax_step(image: np.ndarray) -> Callable[[], None]:
    """Returns a call that does one step of SGD with momentum on the mean square of the features."""
    net = MODELS.build(f"resnet{_DEPTH.value}", dict(base_width=_WIDTH.value))
    variables = jax.jit(lambda x: net.init(jax.random.key(0), x, train=False))(image[:1])
    tx = make_optimizer("sgd", constant(0.1))
    stats = variables["batch_stats"]

    def loss(params: Any, x: Any) -> Any:
        out, updates = net.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(out["pooled"] ** 2), updates

    @jax.jit
    def step(params: Any, opt_state: Any, x: Any) -> Any:
        gradients, updates = jax.grad(loss, has_aux=True)(params, x)
        change, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, change), opt_state, updates

    x = jnp.asarray(image)
    carry = [variables["params"], tx.init(variables["params"])]

    def run() -> None:
        carry[0], carry[1], _ = jax.block_until_ready(step(*carry, x))

    run()  # compiles, under the patches of the caller
    return run


def plain_step(image: np.ndarray) -> Callable[[], None]:
    def pool(x: Any, padding: str) -> Any:
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    with (
        mock.patch.object(resnet, "conv_general_dilated", lax.conv_general_dilated),
        mock.patch.object(resnet, "max_pool_3x3", pool),
    ):
        return jax_step(image)


def torch_step(image: np.ndarray) -> Callable[[], None]:
    """The same network and step in PyTorch; raises ImportError where it is not installed."""
    from peers import torch_simclr
    import torch

    if _CORE.value >= 0:
        torch.set_num_threads(1)
    net = torch_simclr.resnet(int(_DEPTH.value), _WIDTH.value)
    tx = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.from_numpy(image.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        tx.zero_grad()
        net(x).square().mean().backward()
        tx.step()

    run()
    return run


def main(argv: list[str]) -> None:
    del argv
    if _CORE.value >= 0:
        os.sched_setaffinity(0, {_CORE.value})  # before the libraries count the cores
    clock = time.perf_counter if _CORE.value < 0 else time.process_time
    image = np.random.default_rng(0).standard_normal((_BATCH.value, _SIZE.value, _SIZE.value, 3)).astype(np.float32)
    steps = {"plain": plain_step(image), "ours": jax_step(image)}
    try:
        steps["torch"] = torch_step(image)
    except ImportError:
        print(json.dumps({"what": "torch", "skipped": "not installed"}))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS.value):
        for name, step in steps.items():
            start = clock()
            step()
            seconds[name].append(clock() - start)
    for name, times in seconds.items():
        ratios = {
            f"ratio_to_{peer}": round(float(np.median(np.array(seconds[peer]) / times)), 2)
            for peer in ("plain", "torch")
            if peer in seconds and peer != name
        }
        record = {
            "what": name,
            "network": f"resnet{_DEPTH.value}, width {_WIDTH.value}, {_SIZE.value} px, batch {_BATCH.value}",
            "platform": jax.default_backend(),
            "clock": "wall-clock, all cores" if _CORE.value < 0 else "processor time, one core",
            "images_per_s_best": round(_BATCH.value / min(times), 1),
            "images_per_s_median": round(_BATCH.value / float(np.median(times)), 1),
            **ratios,
            "jax": jax.__version__,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
