"""DRIVE: vessels of the retina, judged by image.

    python -m data_prep.build --dataset=drive --source=DRIVE --out=DATASET --size=512
    python -m radnet_jax.main --config=configs/finetune/drive.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py. Pixels outside of the field of view count nowhere.

`protocol=published` is the transfer benchmark's first version (Hosseinzadeh Taher et al. 2021) at 512 px, batch 16,
binary cross entropy; build it with --outside=background, which it had. It trained on copies that another package had
augmented off line (rotation by any angle, mirror images, colours, noise), of a number that is not published: here they
are made on line, and the steps are of 256 copies. Published (10 runs, Dice in per cent, population SD): 79.20 +- 0.33
from ImageNet, 78.27 +- 0.39 from scratch.

The default shows whole images of 512 px; with `windows,size=256` windows of 256.

Cost: published 3,200 steps of 16 images of 512 px (ResNet-50); the default 2,000 steps of 4.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    published = got.protocol == "published"
    config = segmentation.corrected(
        got,
        task="drive",
        command="--dataset=drive --size=512" + (" --outside=background" if published else ""),
        modality="fundus",
        size=512,
        channels=3,
        steps=2000,
        batch_size=4,
    )
    if published:
        segmentation.btl(
            got,
            config,
            modality="fundus",
            images=256,
            version=1,
            size=512,
            batch_size=16,
            loss="binary_cross_entropy",
            augmented=False,
            imagenet=True,
        )
        config.augment.update(rotate=180.0, hflip=0.5, vflip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, noise=0.3)
        config.augment.update(noise_std=0.05)
    return segmentation.finish(got, config)
