"""Time, memory and traffic of k-means over a memory bank that is divided over devices, by rows of the bank.

    python benchmarks/clustering.py --devices=8

Prints one JSON object a line: by rows of the bank, CPU seconds of an iteration on one device (of all threads, which a
busy machine disturbs least; median of `--repeats`) and of scikit-learn's Lloyd, temporary memory of a device as the
compiler plans it, the largest results of what is sent between devices, and, up to `--run_up_to` rows, how far centroids
are apart on 1 device and on all; at the end how time and memory grow with the rows. On a machine without accelerators
the CPU is divided into `--devices`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any

from absl import app, flags

_DEVICES = flags.DEFINE_integer("devices", 8, "Devices the bank is divided over.")
_SIZES = flags.DEFINE_list("sizes", ["32768", "65536", "131072"], "Rows of the bank.")
_DIM = flags.DEFINE_integer("dim", 128, "Length of an embedding.")
_CENTROIDS = flags.DEFINE_integer("centroids", 3000, "Clusters.")
_ITERATIONS = flags.DEFINE_integer("iterations", 10, "Of k-means, where it is run on all devices.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Of each timing.")
_RUN = flags.DEFINE_integer("run_up_to", 32768, "Largest bank that is run on all devices, not only compiled for them.")


def main(argv: list[str]) -> None:
    del argv
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_DEVICES.value))
    # A CPU cut into devices has one pool of threads: large products that share it with sums over devices can hang.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    import jax
    import jax.numpy as jnp
    from jaxtyping import Array
    import numpy as np
    from sklearn.cluster import KMeans

    from radnet_jax import sharding
    from radnet_jax.clustering import lloyd

    def compiled(n: int, mesh: Any, iterations: int) -> Any:
        """Lloyd's iterations, and the assignment after them."""
        rows = sharding.batch_sharding(mesh)
        x = jax.ShapeDtypeStruct((n, _DIM.value), jnp.float32, sharding=rows)
        valid = jax.ShapeDtypeStruct((n,), jnp.bool, sharding=rows)
        start = jax.ShapeDtypeStruct((k, _DIM.value), jnp.float32, sharding=sharding.replicated(mesh))

        def run(x: Array, valid: Array, start: Array) -> Any:
            return lloyd(x, valid, start, iterations=iterations, spherical=False)

        return jax.jit(run).lower(x, valid, start).compile()

    def seconds(run: Any) -> float:
        taken = []
        for _ in range(_REPEATS.value):
            began = time.process_time()
            run()
            taken.append(time.process_time() - began)
        return statistics.median(taken)

    k = _CENTROIDS.value
    one, many = sharding.make_mesh(1), sharding.make_mesh(min(_DEVICES.value, len(jax.devices())))

    def measured(n: int) -> dict[str, Any]:
        x = np.random.default_rng(0).standard_normal((n, _DIM.value), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)

        def placed(mesh: Any) -> tuple[Any, ...]:
            rows = sharding.batch_sharding(mesh)
            valid = np.ones(n, bool)
            return jax.device_put(x, rows), jax.device_put(valid, rows), sharding.replicate(x[:k], mesh)

        def ours(iterations: int) -> float:
            program, inputs = compiled(n, one, iterations), placed(one)
            return seconds(lambda: jax.block_until_ready(program(*inputs)))

        def theirs(iterations: int) -> float:
            model = KMeans(k, init=x[:k], n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
            return seconds(lambda: model.fit(x))

        program = compiled(n, many, _ITERATIONS.value)
        # The difference of two runs leaves out seeds and the assignment at the end.
        iteration, of_sklearn = ((timed(3) - timed(1)) / 2 for timed in (ours, theirs))
        sent = sharding.collectives(program.as_text())
        row = {
            "benchmark": "clustering",
            "rows": n,
            "centroids": k,
            "dim": _DIM.value,
            "cpu_seconds_an_iteration": round(iteration, 3),
            "cpu_seconds_an_iteration_scikit_learn": round(of_sklearn, 3),
            "ratio": round(iteration / of_sklearn, 2),
            "devices": many.size,
            "mib_a_device_of_the_bank": round(x.nbytes / many.size / 2**20, 2),
            "mib_a_device_beside_it": round(program.memory_analysis().temp_size_in_bytes / 2**20, 2),
            "largest_sent_mib": {kind: round(max(results) / 2**20, 2) for kind, results in sent.items()},
        }
        if n <= _RUN.value:
            alone = compiled(n, one, _ITERATIONS.value)(*placed(one)).centroids
            apart = np.asarray(program(*placed(many)).centroids) - np.asarray(alone)
            row["centroid_difference_rms"] = float(np.sqrt(np.mean(apart**2)))
        return row

    sizes = [int(n) for n in _SIZES.value]
    rows = []
    for n in sizes:
        rows.append(measured(n))
        print(json.dumps(rows[-1]), flush=True)
    times, memory = ([row[name] for row in rows] for name in ("cpu_seconds_an_iteration", "mib_a_device_beside_it"))
    growth = {
        "benchmark": "clustering",
        "time_growth_against_linear": round(times[-1] / times[0] / (sizes[-1] / sizes[0]), 2),
        "memory_growth": round(memory[-1] / memory[0], 2),
        "cpu_minutes_of_1.28_million_rows": round(times[-1] * 1.28e6 / sizes[-1] * _ITERATIONS.value / 60, 1),
    }
    print(json.dumps(growth))


if __name__ == "__main__":
    app.run(main)
