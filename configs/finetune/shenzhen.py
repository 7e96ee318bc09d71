"""Tuberculosis on the Shenzhen chest X-rays: the transfer benchmark's target TXC.

    python -m data_prep.build --dataset=shenzhen --source=SHENZHEN --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/shenzhen.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING --workdir=DIR

Variants: see configs/tasks.py.

`protocol=published` (Hosseinzadeh Taher et al. 2021; see `tasks.benchmark`): AUROC of ten runs in percent, scratch
89.03 +- 1.82, ImageNet 95.62 +- 0.63, ChestX-ray14 96.32 +- 0.65, CheXpert 97.07 +- 0.95, ImageNet then ChestX-ray14
98.47 +- 0.26, ImageNet then CheXpert 97.33 +- 0.26; on 463 / 65 / 134 images whose lists are not to be shared, so
that ours are others. There one sigmoid told the two classes apart, here two softmax outputs do: the mean of their two
areas is the same area.

Cost: 463 X-rays; corrected 100 epochs and a sweep of 3 x 10, 60,000 images; published: until the loss
of val stops falling.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import tasks

IMAGES = 463


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg)
    config = tasks.task(
        variant,
        name="shenzhen",
        domain="chest_xray",
        metric="auroc",
        images=IMAGES,
        epochs=100,
        batch_size=32,
        command="--dataset=shenzhen --size=256",
    )
    if variant.protocol == "published":
        tasks.benchmark(config, variant, images=IMAGES)
    return config.lock()
