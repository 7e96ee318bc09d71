"""Linear CKA of two ResNet-50s, 16 x 16 blocks: the share of the networks in its time, and against Gram matrices.

    python benchmarks/cka.py networks                 # 256 images of 224 px: share of the time in the forward passes
    python benchmarks/cka.py features --pairs=6       # 10,000 x 15,104 features a side against PyTorch's Gram matrices

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
import json
import os
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from peers.sides import tell

from radnet_jax import sharding, trees
from radnet_jax.analysis.linear_cka import LinearCka
from radnet_jax.models import MODELS
from radnet_jax.models.blocks import pooled_blocks

WIDTHS = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


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


def features(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
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

    chosen = np.unique(np.linspace(0, len(WIDTHS) ** 2 - 1, args.pairs).round().astype(int))
    gram_s, product_s, error = [], [], 0.0
    for pair in chosen:
        i, j = divmod(int(pair), len(WIDTHS))
        began = time.process_time()
        grams = [centred_gram(torch.from_numpy(x[k])) for x, k in ((a, i), (b, j))]
        made = time.process_time()
        k, l = grams  # noqa: E741
        value = float((k * l).sum() / (torch.linalg.norm(k) * torch.linalg.norm(l)))
        gram_s.append((made - began) / 2)
        product_s.append(time.process_time() - made)
        del grams, k, l
        error = max(error, abs(ours[i, j] - exact(a[i], b[j])))
        print(json.dumps({"pair": [i, j], "ours": ours[i, j], "peer": value}), flush=True)
    pairs = len(WIDTHS) ** 2
    usual = pairs * float(np.mean(product_s) + 2 * np.mean(gram_s))
    once = 2 * len(WIDTHS) * float(np.mean(gram_s)) + pairs * float(np.mean(product_s))
    told = {
        "what": "features",
        "images": args.images,
        "ours_s": spent,
        "pairs_timed": len(chosen),
        "full_gram_s_extrapolated": usual,
        "times_faster": usual / spent,
        "gram_once_s_extrapolated": once,
        "times_faster_than_gram_once": once / spent,
        "error": error,
        "sums_mb": trees.size_bytes(cka._sums) / 1e6,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
    }
    tell(**told)


def centred_gram(x):
    gram = x @ x.T
    return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()


def exact(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (m.astype(np.float64) - m.mean(axis=0, dtype=np.float64) for m in (x, y))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norms)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=("networks", "features"))
    flags.add_argument("--images", type=int, help="256 for networks, 10,000 for features")
    flags.add_argument("--size", type=int, default=224)
    flags.add_argument("--batch", type=int, default=64, help="of the networks")
    flags.add_argument("--of", type=int, default=10_000, help="images that the share is told for")
    flags.add_argument("--feature_batch", type=int, default=512)
    flags.add_argument("--pairs", type=int, default=6, help="pairs of layers that the peer is timed on")
    args = flags.parse_args()
    args.images = args.images or {"networks": 256, "features": 10_000}[args.part]
    {"networks": networks, "features": features}[args.part](args)


if __name__ == "__main__":
    main()
