"""Named random streams: keys follow from (seed, name, step), never from the order of calls."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Int

# Initialisation runs once, as hundreds of small random programs: without optimisation it compiles 5 times as fast.
RUN_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def stream(seed: int | Int[Array, ""], name: str, step: int | Int[Array, ""] | None = None) -> Array:
    """Returns the key of the stream `name`, at a step where it has one. `seed` and `step` may be traced."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return key if step is None else jax.random.fold_in(key, step)
