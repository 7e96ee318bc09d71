"""Compiled programs that a process holds: letting go of them before it has no memory mappings left.

XLA's CPU compiler maps some tens of pieces of memory for each program, Linux gives a process 65,530 mappings, and a
process that has used them up dies in the compiler ("LLVM compilation error: Cannot allocate memory", then a
segmentation fault) with gigabytes free. A study of many different networks came there after some seventy runs.
"""

from __future__ import annotations

import gc
from pathlib import Path

import jax

_MAPPINGS = Path("/proc/self/maps")  # of Linux; elsewhere nothing is counted
LIMIT = 25_000


def count_mappings() -> int:
    """Returns how many memory mappings this process has; 0 where the system does not say."""
    return _MAPPINGS.read_bytes().count(b"\n") if _MAPPINGS.is_file() else 0


def let_go(limit: int = LIMIT) -> bool:
    """Forgets all compiled programs where the process has more than `limit` mappings; returns whether it did.

    What is needed again is compiled again, or comes from the compilation cache.
    """
    if count_mappings() <= limit:
        return False
    jax.clear_caches()
    gc.collect()
    return True
