"""ImageNet with 1,000, 100 or 10 classes, as the RadNet study asked for what is transferred to photographs.

    python -m data_prep.build --dataset=imagenet --source=IMAGENET --out=DATASET --size=256 --classes=1000
    python -m radnet_jax.main --config=configs/finetune/imagenet.py:classes=100,fraction=0.1 --config.data.dir=DATASET \
        --config.init_from=PRETRAINING --workdir=DIR

Variants: see configs/tasks.py; `classes=1000 | 100 | 10`; and `protocol=published_linear` (1,000 classes, all
images).

`protocol=published` (Jonske et al. 2025), 256 px, 100 epochs, the rate decayed by 0.97 after each: LARS at 4.8, batch
4,096 (1,000 classes); at 2.4, batch 1,024 (10 % of them; 100 classes); AdamW at 1e-4, batch 256 (less; 10 classes; 1
% of 10 classes: batch 64). Accuracy of its runs in percent, mean and standard deviation of four:

| | scratch | ImageNet SimCLR | CT SimCLR |
|---|---|---|---|
| 1000 | 69.41 +- 0.27 | 69.35 +- 0.27 | 68.51 +- 0.32 |
| 1000, 10 % | 41.09 +- 0.58 | 49.34 +- 0.56 | 43.08 +- 0.36 |
| 1000, 1 % | 5.15 +- 0.11 | 22.54 +- 0.44 | 8.78 +- 0.35 |
| 100 | 85.13 +- 0.35 | 88.26 +- 0.43 | 84.79 +- 0.37 |
| 100, 10 % | 38.72 +- 1.20 | 74.79 +- 0.53 | 52.50 +- 1.17 |
| 100, 1 % | 10.34 +- 0.29 | 46.95 +- 0.88 | 20.56 +- 0.30 |
| 10 | 84.50 +- 1.74 | 98.00 +- 0.46 | 92.50 +- 0.68 |
| 10, 10 % | 58.10 +- 1.51 | 95.00 +- 0.23 | 81.60 +- 0.57 |
| 10, 1 % | 34.00 +- 1.88 | 88.20 +- 2.03 | 64.80 +- 2.01 |
| 1000, published_linear | | 55.20 +- 0.73 | 37.18 +- 0.67 |

val and test are halves of the official validation images; which half was which was not published.

Cost: 1.28 million photographs (128,000; 12,800); corrected 30 epochs and a sweep of 3 x 3, 50 million images;
published 128 million.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tasks

IMAGES = {1000: 1_281_167, 100: 128_000, 10: 12_800}
_LARGE = dict(optimizer="lars", epochs=100, weight_decay=1e-6)
_SMALL = dict(optimizer="adamw", epochs=100, weight_decay=1e-6, rate=1e-4)
PUBLISHED = {
    1000: {
        1.0: _LARGE | dict(rate=4.8, batch_size=4096),
        0.1: _LARGE | dict(rate=2.4, batch_size=1024),
        0.01: _SMALL | dict(batch_size=256),
    },
    100: {
        1.0: _LARGE | dict(rate=2.4, batch_size=1024),
        0.1: _SMALL | dict(batch_size=256),
        0.01: _SMALL | dict(batch_size=256),
    },
    10: {
        1.0: _SMALL | dict(batch_size=256),
        0.1: _SMALL | dict(batch_size=256),
        0.01: _SMALL | dict(batch_size=64),
    },
}


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg, protocols=("corrected", "published", "published_linear"), classes=1000)
    classes = int(common.choice("number of classes", str(variant.classes), map(str, IMAGES)))
    config = tasks.task(
        variant,
        name="imagenet" if classes == 1000 else f"imagenet_{classes}",
        domain="natural",
        metric="accuracy",
        images=IMAGES[classes],
        epochs=30,
        batch_size=256,
        command=f"--dataset=imagenet --size=256 --classes={classes}",
    )
    if variant.protocol != "corrected":
        row = tasks.by_fraction(variant, PUBLISHED[classes])
        tasks.radnet(config, variant, images=IMAGES[classes], recipe="radnet_published_finetune_natural", **row)
    return config.lock()
