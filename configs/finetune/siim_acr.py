"""SIIM-ACR: pneumothorax on chest X-rays, judged by image.

    python -m data_prep.build --dataset=siim_acr --source=SIIM --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/siim_acr.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py. The images are NIH's: before a start that was pretrained on ChestX-ray14 is
judged here, audit the two (docs/audit.md).

`protocol=published` is the transfer benchmark's first version (Hosseinzadeh Taher et al. 2021) at 224 px, batch 32:
8,000 images in train, 50,000 steps. Published (10 runs, Dice in per cent, population SD): 67.93 +- 1.45 from ImageNet,
67.54 +- 0.60 from scratch, 69.52 +- 0.38 from ImageNet, then ChestX-ray14. Which of its two Dice that is, is not said:
`dice_pooled`, or `dice_btl_per_image`, in which a healthy image without a finding counts 1; its format fits the first.

The default ranks by Dice of the images with a pneumothorax; `dice_per_volume`, in which a false finding in a healthy
image counts 0, stands beside it.

Cost: published 50,000 steps of 32 images of 224 px (ResNet-50); the default 8,000 steps of 32.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    config = segmentation.corrected(
        got,
        task="siim_acr",
        command="--dataset=siim_acr --size=256",
        modality="XR",
        size=256,
        primary_metric="dice_positives_only",
    )
    if got.protocol == "published":
        segmentation.btl(got, config, modality="XR", images=8000, version=1)
    return segmentation.finish(got, config)
