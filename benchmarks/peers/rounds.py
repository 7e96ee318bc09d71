"""A side of a comparison of steps: a round of a part for each line on its standard input. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

Calls = dict[str, Callable[[], Any]]  # by part; they need not wait for the device
Made = tuple[Calls, Callable[[], Any], str]  # calls, the wait for all of them, name of the device


def serve(make: Callable[[], Made], package: str, steps: int, core: int) -> None:
    """Prints a JSON object when ready, and one with the seconds of `steps` calls for each part that is named.

    Args:
      make: imports the library and builds the calls.
      package: whose version is told.
      steps: calls in a round.
      core: to be pinned to, seconds being processor time; -1 for all cores and wall-clock time.
    """
    if core >= 0:
        os.sched_setaffinity(0, {core})  # before the library counts the cores
    clock = time.process_time if core >= 0 else time.perf_counter
    began = time.perf_counter()
    try:
        calls, wait, device = make()
        for call in calls.values():
            for _ in range(3):  # compiles, tunes
                call()
        wait()
    except Exception as error:  # of any kind: not installed, no compiler, no memory; the other sides go on
        print(json.dumps({"absent": f"{type(error).__name__}: {error}"[:400]}), flush=True)
        return
    others = [name for name in ("kornia", "torchvision") if name in sys.modules]
    ready = {"version": importlib.metadata.version(package), "device": device, "parts": list(calls)}
    ready |= {name: importlib.metadata.version(name) for name in others}
    ready |= {"xla_flags": os.environ.get("XLA_FLAGS", "")} if package == "jax" else {}
    ready["start_s"] = time.perf_counter() - began
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        start = clock()
        for _ in range(steps):
            calls[line.strip()]()
        wait()
        print(json.dumps({"seconds": clock() - start}), flush=True)
