"""Montgomery: lungs on chest X-rays, judged by image.

    python -m data_prep.build --dataset=montgomery --source=MONTGOMERY --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/montgomery.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py.

`protocol=published` is the transfer benchmark's first version (Hosseinzadeh Taher et al. 2021) at 224 px, batch 32. Its
split is not published; the steps are of 96 images in train, 70 % of 138. Published (10 runs, Dice in per cent,
population SD): 98.19 +- 0.13 from ImageNet, 97.55 +- 0.36 from scratch.

Cost: published 600 steps of 32 images of 224 px (ResNet-50); the default 2,000 steps of 16.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    config = segmentation.corrected(
        got,
        task="montgomery",
        command="--dataset=montgomery --size=256",
        modality="XR",
        size=256,
        steps=2000,
        batch_size=16,
    )
    if got.protocol == "published":
        segmentation.btl(got, config, modality="XR", images=96, version=1)
    return segmentation.finish(got, config)
