"""Linear CKA of two ResNet-50s, 16 x 16 blocks: the share of the networks in its time, and against Gram matrices.

    python benchmarks/cka.py whole                    # 10,000 images of 128 px, all of it: share, error, memory, peer
    python benchmarks/cka.py whole --images=2000 --pairs=0    # its memory with fewer images
    python benchmarks/cka.py networks                 # 256 images of 224 px: share of the time in the forward passes
    python benchmarks/cka.py features --pairs=6       # 10,000 x 15,104 features a side against PyTorch's Gram matrices

`whole`: two networks of random weights see generated images, and every block's pooled features go through `LinearCka`.
`peak_rss_mb` is that of the process when the map is there. Features are written to disk on the way (not timed); from
them come the exact values of all 256 pairs (float64, `error`), and the time of the peer below on `--pairs` of them.

`networks`: random weights and images. Sums are kept for every batch; the map is made once, whatever the number of
images, so that the share grows with it; that at `--of` images follows from the times of a batch and of the map.

`features`: drawn. The peer is what is usually done: for each pair of layers both n x n Gram matrices, centred, and the
sum of their products; PyTorch, float32, on as many threads. It is timed on `--pairs` of the 256 pairs, spread evenly,
and the rest follows by the same time a pair (`_extrapolated`). `gram_once_s` is a kinder peer that makes each Gram
matrix once and keeps all 32 (12.8 GB at 10,000 images): its time follows from the parts of those pairs. The largest
difference from the exact value (float64, on the same pairs) stands in `error`. Processor time; one JSON object a line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
import resource
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers.sides import tell

from radnet_jax import sharding, trees
from radnet_jax.analysis.linear_cka import LinearCka
from radnet_jax.models import MODELS
from radnet_jax.models.blocks import pooled_blocks

WIDTHS = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
Layers = Callable[[int], np.ndarray]


def drawn(module, size: int, seed: int):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda k, x: module.init(k, x, train=False), jax.random.key(0), image)
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.standard_normal(x.shape, np.float32) * (2 / np.prod(x.shape[:-1])) ** 0.5
        return np.full(x.shape, float(path[-1].key in ("scale", "var")), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def networks(args: argparse.Namespace) -> None:
    module, mesh = MODELS.build("resnet50"), sharding.make_mesh()
    variables = [drawn(module, args.size, seed) for seed in (0, 1)]
    layers = jax.jit(lambda v, x: list(pooled_blocks(module, v, x).values()))
    rng = np.random.default_rng(2)
    batch, valid = (args.batch, args.size, args.size, 3), jnp.ones(args.batch)
    cka = LinearCka(WIDTHS, WIDTHS, mesh)
    forward, sums = [], []
    for step in range(args.images // args.batch + 1):
        image = jnp.asarray(rng.standard_normal(batch, np.float32))
        began = time.process_time()
        a, b = jax.block_until_ready([layers(v, image) for v in variables])
        passed = time.process_time()
        cka.add(a, b, valid)
        cka.wait()
        if step:  # the first compiles
            forward.append(passed - began)
            sums.append(time.process_time() - passed)
    began = time.process_time()
    cka.map()
    last = time.process_time() - began
    batches = args.of / args.batch
    passes, kept = float(np.median(forward)), float(np.median(sums))
    told = {
        "what": "networks",
        "size": args.size,
        "batch": args.batch,
        "batches": len(forward),
        "forward_s": passes,
        "sums_s": kept,
        "map_s": last,
        f"share_forward_at_{args.of}": passes * batches / ((passes + kept) * batches + last),
        "sums_mb": trees.size_bytes(cka._sums) / 1e6,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    tell(**told)


def whole(args: argparse.Namespace) -> None:
    module, mesh = MODELS.build("resnet50"), sharding.make_mesh()
    variables = [drawn(module, args.size, seed) for seed in (0, 1)]
    layers = jax.jit(lambda v, x: list(pooled_blocks(module, v, x).values()))

    @jax.jit
    def images(step: int) -> jax.Array:
        """Spots of several sizes in noise."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), step), 4)
        shape = (args.batch, args.size, args.size, 3)
        coarse = [jax.random.normal(k, (args.batch, n, n, 3)) for k, n in zip(keys, (2, 4, 8))]
        return sum(jax.image.resize(c, shape, "linear") for c in coarse) + 0.3 * jax.random.normal(keys[3], shape)

    cka, spent = LinearCka(WIDTHS, WIDTHS, mesh), dict.fromkeys(("images_s", "forward_s", "sums_s"), 0.0)
    compiled = LinearCka(WIDTHS, WIDTHS, mesh)
    compiled.add(*(layers(v, images(0)) for v in variables), jnp.ones(args.batch))
    compiled.wait()
    del compiled
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for step in range(-(-args.images // args.batch)):
            times = [time.process_time()]
            image = jax.block_until_ready(images(step))
            times.append(time.process_time())
            both = jax.block_until_ready([layers(v, image) for v in variables])
            times.append(time.process_time())
            valid = jnp.arange(args.batch) < args.images - step * args.batch
            cka.add(*both, valid.astype(jnp.float32))
            cka.wait()
            times.append(time.process_time())
            spent = {k: v + b - a for (k, v), a, b in zip(spent.items(), times, times[1:])}
            if args.pairs:
                for side, found in zip("ab", both):
                    for i, x in enumerate(found):
                        with open(f"{folder}/{side}{i}", "ab") as file:
                            np.asarray(x)[np.asarray(valid)].tofile(file)
        began = time.process_time()
        ours = cka.map(debiased=False)
        spent["map_s"] = time.process_time() - began
        told = {"what": "whole", "images": cka.images, "size": args.size, "batch": args.batch, **spent}
        told["share_forward"] = spent["forward_s"] / sum(spent.values())
        told["sums_mb"] = trees.size_bytes(cka._sums) / 1e6
        told["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        del cka
        if args.pairs:
            read = {s: lambda i, s=s: np.fromfile(f"{folder}/{s}{i}", np.float32).reshape(-1, WIDTHS[i]) for s in "ab"}
            told |= against_grams(read["a"], read["b"], ours, args.pairs, spent["sums_s"] + spent["map_s"])
            told["error"] = float(np.abs(ours - exact_map(read["a"], read["b"])).max())
    tell(**told, cores=len(os.sched_getaffinity(0)), device=jax.devices()[0].device_kind)


def exact_map(a: Layers, b: Layers) -> np.ndarray:
    """CKA of all pairs in float64."""
    columns = [centred(b(j)) for j in range(len(WIDTHS))]
    norms = [np.linalg.norm(y.T @ y) for y in columns]
    out = np.empty((len(WIDTHS), len(WIDTHS)))
    for i in range(len(WIDTHS)):
        x = centred(a(i))
        own = np.linalg.norm(x.T @ x)
        out[i] = [np.linalg.norm(x.T @ y) ** 2 / (own * norm) for y, norm in zip(columns, norms)]
    return out


def features(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    cause = rng.standard_normal((args.images, 64), np.float32)

    def layers() -> list[np.ndarray]:
        out = []
        for d in WIDTHS:
            x = cause @ rng.standard_normal((64, d), np.float32)
            x += 8 * rng.standard_normal((args.images, d), np.float32)
            out.append(np.maximum(x, 0, out=x))
        return out

    a, b = layers(), layers()
    batch = args.feature_batch
    cka = LinearCka(WIDTHS, WIDTHS, sharding.make_mesh())

    def add(target: LinearCka, first: int) -> None:
        rows = np.arange(first, first + batch)
        valid = jnp.asarray(rows < args.images, jnp.float32)
        rows = np.where(rows < args.images, rows, 0)
        target.add([jnp.asarray(x[rows]) for x in a], [jnp.asarray(x[rows]) for x in b], valid)

    warm = LinearCka(WIDTHS, WIDTHS, sharding.make_mesh())
    add(warm, 0)
    warm.wait()
    del warm
    began = time.process_time()
    for first in range(0, args.images, batch):
        add(cka, first)
    ours = cka.map(debiased=False)
    spent = time.process_time() - began

    told = {
        "what": "features",
        "images": args.images,
        "ours_s": spent,
        "sums_mb": trees.size_bytes(cka._sums) / 1e6,
        **against_grams(a.__getitem__, b.__getitem__, ours, args.pairs, spent),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "cores": len(os.sched_getaffinity(0)),
    }
    tell(**told)


def against_grams(a: Layers, b: Layers, ours: np.ndarray, count: int, spent: float) -> dict[str, Any]:
    """Times the peer on `count` pairs, and tells it against what ours took for all."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    chosen = np.unique(np.linspace(0, len(WIDTHS) ** 2 - 1, count).round().astype(int))
    gram_s, product_s, error, off = [], [], 0.0, 0.0
    for pair in chosen:
        i, j = divmod(int(pair), len(WIDTHS))
        x, y = a(i), b(j)
        began = time.process_time()
        k, l = (centred_gram(torch.from_numpy(m)) for m in (x, y))  # noqa: E741
        made = time.process_time()
        value = float((k * l).sum() / (torch.linalg.norm(k) * torch.linalg.norm(l)))
        gram_s.append((made - began) / 2)
        product_s.append(time.process_time() - made)
        del k, l
        true = exact(x, y)
        error, off = max(error, abs(ours[i, j] - true)), max(off, abs(value - true))
        print(json.dumps({"pair": [i, j], "ours": ours[i, j], "peer": value}), flush=True)
    pairs = len(WIDTHS) ** 2
    usual = pairs * float(np.mean(product_s) + 2 * np.mean(gram_s))
    once = 2 * len(WIDTHS) * float(np.mean(gram_s)) + pairs * float(np.mean(product_s))
    return {
        "pairs_timed": len(chosen),
        "full_gram_s_extrapolated": usual,
        "times_faster": usual / spent,
        "gram_once_s_extrapolated": once,
        "times_faster_than_gram_once": once / spent,
        "error": error,
        "error_of_peer": off,
        "torch": torch.__version__,
    }


def centred_gram(x):
    gram = x @ x.T
    return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()


def centred(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)


def exact(x: np.ndarray, y: np.ndarray) -> float:
    x, y = centred(x), centred(y)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norms)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=("whole", "networks", "features"))
    flags.add_argument("--images", type=int, help="256 for networks, else 10,000")
    flags.add_argument("--size", type=int, help="128 for whole, 224 for networks")
    flags.add_argument("--batch", type=int, help="500 for whole, 64 for networks")
    flags.add_argument("--folder", help="where whole keeps 1.2 GB of features meanwhile; the system's by default")
    flags.add_argument("--of", type=int, default=10_000, help="images that the share is told for")
    flags.add_argument("--feature_batch", type=int, default=512)
    flags.add_argument("--pairs", type=int, default=6, help="pairs of layers that the peer is timed on")
    args = flags.parse_args()
    run = {"whole": whole, "networks": networks, "features": features}[args.part]
    args.images = args.images or (256 if run is networks else 10_000)
    args.size = args.size or (128 if run is whole else 224)
    args.batch = args.batch or (500 if run is whole else 64)
    run(args)


if __name__ == "__main__":
    main()
