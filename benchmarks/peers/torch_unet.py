"""The U-Net step as a PyTorch user writes it, with segmentation_models_pytorch: one side of `segmentation_step.py`.

Channels last, fused AdamW, Dice and cross entropy in float32; on a GPU bfloat16 autocast and TF32, and `torch.compile`
over network and loss where asked.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import sys
from typing import Any

from peers import rounds
from peers.torch_update import device, made, updates
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F  # noqa: N812


def step(depth: int, size: int, batch: int, classes: int, compiled: bool) -> Callable[[], None]:
    """Returns a call that does one update on the same images and masks, and waits for nothing."""
    place = device()
    net = smp.Unet(f"resnet{depth}", encoder_weights=None, classes=classes)
    net = net.to(place, memory_format=torch.channels_last).train()
    tx = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    x = torch.randn((batch, 3, size, size), device=place).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, classes, (batch, size, size), device=place)

    def forward(x: torch.Tensor) -> torch.Tensor:
        logits = net(x).float()
        p = logits.softmax(1)[:, 1:]
        t = F.one_hot(target, classes).movedim(-1, 1)[:, 1:].float()
        overlap, both = (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)) + t.sum((0, 2, 3))
        return F.cross_entropy(logits, target) + (1 - (2 * overlap + 1) / (both + 1)).mean()

    return updates(tx, torch.compile(forward) if compiled else forward, x)


def make(s: dict[str, Any]) -> rounds.Made:
    if s["core"] >= 0:
        torch.set_num_threads(1)
    calls: rounds.Calls = {"step": step(s["depth"], s["size"], s["batch"], s["classes"], s["compiled"])}
    return made(calls)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    rounds.serve(lambda: make(given), "segmentation-models-pytorch", given["steps"], given["core"])
