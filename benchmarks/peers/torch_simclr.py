"""The SimCLR step as a PyTorch user writes it, and the residual networks for it: one side of `train_step.py`.

Channels last, fused SGD, NT-Xent in float32; on a GPU bfloat16 autocast and TF32, and `torch.compile` over network and
loss where asked. The views are kornia's, which draws for each image on the device; without kornia torchvision's,
image by image, since its transforms draw once for a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import sys
from typing import Any

from peers import rounds
from peers.torch_update import device, made, updates
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        out = features * (4 if bottleneck else 1)
        kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        layers: list[nn.Module] = []
        width = inputs
        for i, (kernel, s) in enumerate(kernels):
            to = out if i == len(kernels) - 1 else features
            layers += [nn.Conv2d(width, to, kernel, s, kernel // 2, bias=False), nn.BatchNorm2d(to), nn.ReLU(True)]
            width = to
        self.branch = nn.Sequential(*layers[:-1])
        self.down: nn.Module = nn.Identity()
        if inputs != out or stride != 1:
            self.down = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.branch(x) + self.down(x))


def resnet(depth: int, width: int) -> nn.Sequential:
    """Returns images to features, with the layers of torchvision's networks of these names, and of any width."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs, expansion = width, 4 if depth >= 50 else 1
    for i, blocks in enumerate(BLOCKS[depth]):
        for j in range(blocks):
            layers.append(Block(inputs, width * 2**i, 2 if i > 0 and j == 0 else 1, depth >= 50))
            inputs = width * 2**i * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=torch.channels_last)


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over 2b embeddings, the views of an image side by side (Chen et al. 2020, equation 1)."""
    z = F.normalize(z.float(), dim=1)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device) ^ 1)


def step(depth: int, width: int, size: int, batch: int, compiled: bool) -> Callable[[], None]:
    """Returns a call that does one update on the same 2 * batch images, and waits for nothing."""
    place = device()
    features = width * 8 * (4 if depth >= 50 else 1)
    projector = nn.Sequential(
        nn.Linear(features, 2048, bias=False),
        nn.BatchNorm1d(2048),
        nn.ReLU(True),
        nn.Linear(2048, 128, bias=False),
        nn.BatchNorm1d(128),
    )
    net = nn.Sequential(resnet(depth, width), projector).to(place)
    tx = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    x = torch.randn((2 * batch, 3, size, size), device=place).contiguous(memory_format=torch.channels_last)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return nt_xent(net(x), 0.1)

    return updates(tx, torch.compile(forward) if compiled else forward, x)


def views(stored: int, size: int, batch: int) -> Callable[[], None]:
    """Returns a call that makes two standardised views of each of `batch` images; raises ImportError where it can't."""
    place = device()
    image = torch.randint(0, 256, (batch, 3, stored, stored), dtype=torch.uint8, device=place)
    try:
        import kornia.augmentation as k
    except ImportError:
        return views_of_torchvision(image, size)
    change = nn.Sequential(
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
        k.Normalize(torch.full((3,), 0.5), torch.full((3,), 0.25)),
    ).to(place)

    def run() -> None:
        with torch.no_grad():
            change(image.repeat_interleave(2, 0).float() / 255).contiguous(memory_format=torch.channels_last)

    return run


def views_of_torchvision(image: torch.Tensor, size: int) -> Callable[[], None]:
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )

    def run() -> None:
        with torch.no_grad():
            made = torch.stack([change(x) for x in image for _ in range(2)])
            made.contiguous(memory_format=torch.channels_last)

    return run


def make(s: dict[str, Any]) -> rounds.Made:
    if s["core"] >= 0:
        torch.set_num_threads(1)
    calls: rounds.Calls = {"step": step(s["depth"], s["base_width"], s["size"], s["batch"], s["compiled"])}
    if not s["compiled"]:
        try:
            calls["views"] = views(s["stored"], s["size"], s["batch"])
        except ImportError:
            print("neither kornia nor torchvision: no views of the peer", file=sys.stderr)
    return made(calls)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    rounds.serve(lambda: make(given), "torch", given["steps"], given["core"])
