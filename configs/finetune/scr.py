"""SCR: heart, clavicles or lungs on the chest X-rays of JSRT, judged by image.

    python -m data_prep.build --dataset=jsrt --source=JSRT --out=DATASET --size=256 --structure=heart
    python -m radnet_jax.main --config=configs/finetune/scr.py:structure=heart --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: `structure=heart | clavicles | lungs`, as the dataset was built, names the task; and those of
configs/segmentation.py.

`protocol=published` is the transfer benchmark's second version (Hosseinzadeh Taher et al. 2025) at 224 px, batch 32:
124 images in train, 2,000 steps. Published from ImageNet (ResNet-50, Dice in per cent, read off a plot): heart 93.58,
clavicles 86.91. Lungs were no task of it.

Cost: published 2,000 steps of 32 images of 224 px (ResNet-50); the default 2,000 steps of 16.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, segmentation

STRUCTURES = ("heart", "clavicles", "lungs")


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg, structure="heart")
    structure = common.choice("structure", got.structure, STRUCTURES)
    config = segmentation.corrected(
        got,
        task=f"scr_{structure}",
        command=f"--dataset=jsrt --size=256 --structure={structure}",
        modality="XR",
        size=256,
        tolerance=2.0,
        steps=2000,
        batch_size=16,
    )
    if got.protocol == "published":
        segmentation.btl(got, config, modality="XR", images=124, version=2)
    return segmentation.finish(got, config)
