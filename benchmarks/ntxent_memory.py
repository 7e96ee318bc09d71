"""Memory and time of NT-Xent, blocked, by global batch; and what the same loss takes with all similarities kept.

    python benchmarks/ntxent_memory.py --devices=8

Prints one JSON object a line: temporary memory of a device for loss and gradient, as the compiler plans it, by size of
the global batch; whether it is linear; and, up to `--run_up_to` examples, seconds a call and the largest difference of
the gradient between 1 device and all. On a machine without accelerators the CPU is divided into `--devices`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any

from absl import app, flags

_DEVICES = flags.DEFINE_integer("devices", 8, "Devices the batch is divided over.")
_SIZES = flags.DEFINE_list("sizes", ["4096", "8192", "16384", "32768", "65536"], "Global batch sizes.")
_DIM = flags.DEFINE_integer("dim", 128, "Length of an embedding.")
_RUN = flags.DEFINE_integer("run_up_to", 4096, "Largest batch that is run, not only compiled.")


def main(argv: list[str]) -> None:
    del argv
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_DEVICES.value))
    import jax
    import jax.numpy as jnp
    from jaxtyping import Array

    from radnet_jax import sharding
    from radnet_jax.losses.ntxent import nt_xent

    def kept(z: Array) -> Array:
        """The plain form: one matrix of all similarities."""
        x = jnp.concatenate([z[:, 0], z[:, 1]])
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        n = len(z)
        s = jnp.where(jnp.eye(2 * n, dtype=bool), -1e9, x @ x.T / 0.1)
        return (jax.nn.logsumexp(s, axis=1) - s[jnp.arange(2 * n), (jnp.arange(2 * n) + n) % (2 * n)]).mean()

    mesh = sharding.make_mesh(min(_DEVICES.value, len(jax.devices())))

    def compiled(loss: Any, n: int) -> Any:
        z = jax.ShapeDtypeStruct((n, 2, _DIM.value), jnp.float32, sharding=sharding.batch_sharding(mesh))
        return jax.jit(jax.value_and_grad(loss)).lower(z).compile()

    def blocked(z: Array) -> Array:
        return nt_xent(z, temperature=0.1)[0]

    sizes = [int(n) for n in _SIZES.value]
    used = {}
    for n in sizes:
        row: dict[str, Any] = {"benchmark": "ntxent_memory", "devices": mesh.size, "batch": n}
        step = compiled(blocked, n)
        used[n] = step.memory_analysis().temp_size_in_bytes / 2**20
        row["mib_a_device"] = round(used[n], 1)
        row["mib_a_device_all_kept"] = round(compiled(kept, n).memory_analysis().temp_size_in_bytes / 2**20, 1)
        if n <= _RUN.value:
            z = jax.random.normal(jax.random.key(0), (n, 2, _DIM.value))
            sharded = jax.device_put(z, sharding.batch_sharding(mesh))
            value, gradient = step(sharded)
            alone_value, alone = jax.jit(jax.value_and_grad(blocked))(z)
            row["loss_difference"] = abs(float(value) - float(alone_value))
            apart = jnp.abs(gradient - jax.device_put(alone, gradient.sharding)).max()
            row["gradient_difference_relative"] = float(apart / jnp.abs(alone).max())
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                jax.block_until_ready(step(sharded))
                seconds.append(time.perf_counter() - began)
            row["seconds"] = round(statistics.median(seconds), 4)
        print(json.dumps(row), flush=True)
    growth = used[sizes[-1]] / used[sizes[0]] / (sizes[-1] / sizes[0])
    print(json.dumps({"benchmark": "ntxent_memory", "growth_against_linear": round(growth, 2)}))


if __name__ == "__main__":
    app.run(main)
