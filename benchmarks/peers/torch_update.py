"""What the PyTorch sides share: the device, one update as a PyTorch user writes it, and what a side is made of."""

from __future__ import annotations

from collections.abc import Callable

from peers import rounds
import torch


def device() -> str:
    """Returns the name of the device; a GPU is set to be fast."""
    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    return "cuda"


def made(calls: rounds.Calls) -> rounds.Made:
    """Returns the calls with the wait for them and the device's own name."""
    if torch.cuda.is_available():
        return calls, torch.cuda.synchronize, torch.cuda.get_device_name()
    return calls, lambda: None, "cpu"


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
