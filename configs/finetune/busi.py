"""BUSI: lesions in breast ultrasound, judged by image.

    python -m data_prep.build --dataset=busi --source=BUSI --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/busi.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py.

`protocol=published` is the transfer benchmark's second version (Hosseinzadeh Taher et al. 2025) at 224 px, batch 32.
Its split is not published; the steps are of 546 images in train, 70 % of 780. Published from ImageNet (Dice in per
cent, read off a plot): ResNet-50 73.95, ConvNeXt-B 83.46, Swin-B 81.07. Nobody knows which images are of one woman, so
that no split is safe, and many images are near copies.

The default ranks by Dice of the images with a lesion.

Cost: published 9,000 steps of 32 images of 224 px (ResNet-50); the default 4,000 steps of 16.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    config = segmentation.corrected(
        got,
        task="busi",
        command="--dataset=busi --size=256",
        modality="US",
        size=256,
        primary_metric="dice_positives_only",
        steps=4000,
        batch_size=16,
    )
    if got.protocol == "published":
        segmentation.btl(got, config, modality="US", images=546, version=2)
    return segmentation.finish(got, config)
