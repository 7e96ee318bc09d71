"""One update as a PyTorch user writes it."""

from __future__ import annotations

from collections.abc import Callable

import torch


def updates(
    tx: torch.optim.Optimizer, loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> Callable[[], None]:
    """Returns a call that does one update on `x`, in bfloat16 on a GPU, and waits for nothing."""
    device = x.device.type

    def run() -> None:
        tx.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(x)
        value.backward()
        tx.step()

    return run
