"""How long a linear probe of cached features takes: the whole ridge path, its choice on val, and scikit-learn's.

    python -m benchmarks.linear_probe                      # 100,000 x 2,048 features, 1,000 classes
    python -m benchmarks.linear_probe --n=10000 --d=256 --k=100 --peer

Features are drawn: class means and noise, a spectrum that falls as those of networks do. They are written as a probe's
cache has them and read from there. The peer is RidgeClassifier of scikit-learn (`--peer`: one penalty, and all of them
one after another, extrapolated). One JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import tempfile
import time

import numpy as np

from radnet_jax.evaluation import ridge
from radnet_jax.evaluation.metrics import METRICS


def features(rng: np.random.Generator, label: np.ndarray, means: np.ndarray, scale: np.ndarray) -> np.ndarray:
    out = rng.standard_normal((len(label), len(scale)), dtype=np.float32)
    out *= scale
    out += means[label]
    return np.maximum(out, 0, out=out)  # pooled features of a ReLU network are not negative


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--n", type=int, default=100_000, help="training examples")
    flags.add_argument("--val", type=int, default=10_000, help="examples that the strength is chosen on")
    flags.add_argument("--d", type=int, default=2048, help="features")
    flags.add_argument("--k", type=int, default=1000, help="classes")
    flags.add_argument("--peer", action="store_true", help="time scikit-learn's RidgeClassifier too")
    args = flags.parse_args()
    rng = np.random.default_rng(0)
    scale = (np.arange(1, args.d + 1) ** -0.5).astype(np.float32)
    means = rng.standard_normal((args.k, args.d), dtype=np.float32) * scale * 0.15
    eye = np.eye(args.k, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths, classes = {}, {}
        for split, n in (("train", args.n), ("val", args.val)):
            classes[split] = rng.integers(args.k, size=n)
            paths[split] = Path(folder, f"{split}.npy")
            np.save(paths[split], features(rng, classes[split], means, scale))
        size = {"n": args.n, "val": args.val, "d": args.d, "k": args.k, "cores": len(os.sched_getaffinity(0))}
        began = time.perf_counter()
        train, val = (np.load(paths[split]) for split in ("train", "val"))
        read = time.perf_counter()
        path = ridge.fit_ridge_path(train, eye[classes["train"]], np.ones((args.n, args.k), np.float32))
        fitted = time.perf_counter()
        accuracy, truth = METRICS.get("accuracy"), eye[classes["val"]]
        scored = path.scores(val, ridge.STRENGTHS)
        values = [accuracy(ridge.squashed(s, multi_label=False), truth).value for s in scored]
        done = time.perf_counter()
        best = int(np.argmax(values))
        result = {"total_s": done - began, "read_s": read - began, "fit_s": fitted - read, "choose_s": done - fitted}
        told = {"strengths": len(values), "best": ridge.STRENGTHS[best], "val_accuracy": values[best]}
        print(
            json.dumps({"what": "ridge path"} | size | {k: round(v, 2) for k, v in result.items()} | told), flush=True
        )
        if args.peer:
            from sklearn.linear_model import RidgeClassifier
            from sklearn.preprocessing import StandardScaler

            began = time.perf_counter()
            scaler = StandardScaler().fit(train)
            theirs = RidgeClassifier(alpha=ridge.STRENGTHS[best] * args.n).fit(
                scaler.transform(train), classes["train"]
            )
            value = float(np.mean(theirs.predict(scaler.transform(val)) == classes["val"]))
            spent = time.perf_counter() - began
            each = {"total_s": round(spent, 2), "path_s_extrapolated": round(spent * len(values), 1)}
            print(json.dumps({"what": "RidgeClassifier, one penalty"} | size | each | {"val_accuracy": value}))


if __name__ == "__main__":
    main()
