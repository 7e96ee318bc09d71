"""What the choice of formulation in `models/conv.py` and `models/pool.py` gains: one training step of a ResNet.

    python benchmarks/conv.py --depth=18 --base_width=16 --size=64 --batch=256

Prints one JSON object a line for: the library's convolution and pooling throughout ("plain"), ours, and the same step
in PyTorch (channels_last, no compilation), where it is installed. Rounds alternate between them, so that other load on
the machine meets all alike; the ratios are medians over the rounds of images/s against the same round's peer.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import time
from typing import Any
from unittest import mock

from absl import app, flags
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from radnet_jax.models import MODELS, conv, resnet
from radnet_jax.optim import make_optimizer
from radnet_jax.schedules import constant

_DEPTH = flags.DEFINE_enum("depth", "18", ["18", "34", "50"], "ResNet depth.")
_WIDTH = flags.DEFINE_integer("base_width", 16, "Channels of the first stage.")
_SIZE = flags.DEFINE_integer("size", 64, "Pixels a side.")
_BATCH = flags.DEFINE_integer("batch", 256, "Images a step.")
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
        mock.patch.object(conv, "formulation", return_value="library"),
        mock.patch.object(resnet, "max_pool_3x3", pool),
    ):
        return jax_step(image)


def torch_step(image: np.ndarray) -> Callable[[], None]:
    """The same network and step in PyTorch; raises ImportError where it is not installed."""
    import torch
    from torch import nn as tn

    class Block(tn.Module):
        def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
            super().__init__()
            out = features * (4 if bottleneck else 1)
            kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
            layers: list[Any] = []
            width = inputs
            for i, (kernel, s) in enumerate(kernels):
                to = out if i == len(kernels) - 1 else features
                layers += [tn.Conv2d(width, to, kernel, s, kernel // 2, bias=False), tn.BatchNorm2d(to), tn.ReLU(True)]
                width = to
            self.branch = tn.Sequential(*layers[:-1])
            self.down: Any = tn.Identity()
            if inputs != out or stride != 1:
                self.down = tn.Sequential(tn.Conv2d(inputs, out, 1, stride, bias=False), tn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.branch(x) + self.down(x))

    depth, width = int(_DEPTH.value), _WIDTH.value
    layers: list[Any] = [tn.Conv2d(3, width, 7, 2, 3, bias=False), tn.BatchNorm2d(width), tn.ReLU(True)]
    layers.append(tn.MaxPool2d(3, 2, 1))
    inputs = width
    for i, blocks in enumerate(resnet.BLOCKS[depth]):
        for j in range(blocks):
            layers.append(Block(inputs, width * 2**i, 2 if i > 0 and j == 0 else 1, depth >= 50))
            inputs = width * 2**i * (4 if depth >= 50 else 1)
    net: Any = tn.Sequential(*layers, tn.AdaptiveAvgPool2d(1), tn.Flatten())
    net.to(memory_format=torch.channels_last)
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
    image = np.random.default_rng(0).standard_normal((_BATCH.value, _SIZE.value, _SIZE.value, 3)).astype(np.float32)
    steps = {"plain": plain_step(image), "ours": jax_step(image)}
    try:
        steps["torch"] = torch_step(image)
    except ImportError:
        print(json.dumps({"what": "torch", "skipped": "not installed"}))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS.value):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
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
            "images_per_s_best": round(_BATCH.value / min(times), 1),
            "images_per_s_median": round(_BATCH.value / float(np.median(times)), 1),
            **ratios,
            "jax": jax.__version__,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
