"""One side of a comparison of `benchmarks/augment.py`: two SimCLR views on one core, a round for each line read.

    python benchmarks/peers/augment_worker.py SIDE COLOURS CORE STORED SIZE BATCH

SIDE is ours, albumentations, albumentations_uint8 (its views are not standardised) or torchvision; COLOURS is rgb or
gray. Prints one JSON object when it is ready, and one after each line on its standard input: processor seconds of the
whole process for one batch. All sides give a batch [b 2 h w 3]: gray images are changed as one channel and repeated.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TAPS = 13  # of the blur at 224 px, on all sides: three sigma of the widest


def images(colours: str, stored: int, batch: int) -> np.ndarray:
    """Returns smooth uint8 images [b h w c]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (batch, 9, 9, 3 if colours == "rgb" else 1))
    position = np.linspace(0, 7.999, stored)
    low, part = position.astype(int), position % 1
    for axis in (1, 2):
        share = part.reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        coarse = np.take(coarse, low, axis) * (1 - share) + np.take(coarse, low + 1, axis) * share
    return coarse.astype(np.uint8)


def ours(image: np.ndarray, size: int) -> Callable[[], Any]:
    import jax

    from radnet_jax.augment import AUGMENTATIONS
    from radnet_jax.augment.views import make_views
    from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter

    channels = image.shape[-1]
    modality, changes = ("photo", {}) if channels == 3 else ("XR", dict(saturation=0, hue=0, grayscale=0))
    stored = StoredPixels(modality, "none", (0.0, 255.0), image.shape[1:3], channels, "pad_area", "uint8")
    adapter = make_adapter(stored, ModelInput(modality, 3, (size, size), (), (0.0, 255.0), MEAN, STD))
    recipe = AUGMENTATIONS.build("simclr", changes)
    steps = iter(range(1_000_000))
    return lambda: make_views(image, adapter, recipe, jax.random.key(next(steps)), 2).block_until_ready()


def albumentations(image: np.ndarray, size: int, *, standardised: bool) -> Callable[[], Any]:
    import albumentations as a
    import cv2

    cv2.setNumThreads(0)
    gray = image.shape[-1] == 1
    changes = [
        a.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        a.HorizontalFlip(p=0.5),
        a.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
        *([] if gray else [a.ToGray(p=0.2)]),
        a.GaussianBlur(blur_limit=(TAPS, TAPS), sigma_limit=(0.1, 2.0), p=0.5),
        *([a.Normalize(MEAN[:1], STD[:1]) if gray else a.Normalize(MEAN, STD)] if standardised else []),
    ]
    change = a.Compose(changes)
    out = np.empty((len(image), 2, size, size, 3), np.float32 if standardised else np.uint8)

    def run() -> np.ndarray:
        for one, views in zip(image, out, strict=True):
            for view in views:
                view[...] = change(image=one)["image"]  # one channel goes to all three
        return out

    return run


def torchvision(image: np.ndarray, size: int) -> Callable[[], Any]:
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    gray = image.shape[-1] == 1
    change = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, *(() if gray else (0.8, 0.2)))], 0.8),
            *([] if gray else [v2.RandomGrayscale(0.2)]),
            v2.RandomApply([v2.GaussianBlur(TAPS, (0.1, 2.0))], 0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN[:1], STD[:1]) if gray else v2.Normalize(MEAN, STD),
        ]
    )
    tensors = [torch.from_numpy(x).permute(2, 0, 1).contiguous() for x in image]
    out = torch.empty((len(image), 2, 3, size, size))

    def run() -> Any:
        for one, views in zip(tensors, out, strict=True):
            for view in views:
                view[...] = change(one)
        return out

    return run


def main(side: str, colours: str, core: str, stored: str, size: str, batch: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})  # before the libraries count the cores
    image = images(colours, int(stored), int(batch))
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "ours": lambda: ours(image, int(size)),
        "albumentations": lambda: albumentations(image, int(size), standardised=True),
        "albumentations_uint8": lambda: albumentations(image, int(size), standardised=False),
        "torchvision": lambda: torchvision(image, int(size)),
    }
    package = {"ours": "jax"}.get(side, side.removesuffix("_uint8"))
    try:
        run = makers[side]()
        run()
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    print(json.dumps({"version": f"{package} {importlib.metadata.version(package)}"}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(json.dumps({"seconds": time.process_time() - start}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
