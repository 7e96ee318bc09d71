"""LiTS 2017: liver and tumours in CT, judged by volume.

    python -m data_prep.build --dataset=lits --source=LITS --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/lits.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py.

`protocol=published` is the RadNet study's (Jonske et al. 2025), on the PNG re-release that it used (build with
--format=png): U-Net, cross entropy weighted 1, 3, 10, AdamW at 2e-4, 0.97 an epoch, 277 steps an epoch. Its Dice pools
batches of 128 shuffled slices, liver without tumours: `dice_radnet_published` of run.json. Published (4 runs, mean and
SD in per cent): liver 94.87 +- 0.41 and tumour 85.51 +- 0.53 from ImageNet, 95.07 +- 0.25 and 85.42 +- 0.46 from its
CT, 89.17 +- 9.90 and 73.37 +- 20.31 from scratch. Which volumes were test is not published, nor whether slices were
split by volume.

The default is ours: CT in Hounsfield units, liver with its tumours as the challenge has it, Dice by volume, lesions one
by one. No published figure compares with it but the challenge's, which are of its own test set.

Cost: published 13,850 steps of 128 slices of 256 px (ResNet-50); the default 8,000 steps of 32.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    published = got.protocol == "published"
    config = segmentation.corrected(
        got,
        command="--dataset=lits --size=256" + (" --format=png" if published else ""),
        task="lits_published" if published else "lits",  # other pixels and other regions: another task
        modality="CT",
        size=256,
        regions="lits_without_tumour" if published else "lits",
        tolerance=3.0,
        lesions="any_overlap",
        hu=not published,
    )
    if published:
        segmentation.radnet(
            got, config, weights=(1.0, 3.0, 10.0), rate=2e-4, weight_decay=1e-6, decay=0.97, steps_per_epoch=277
        )
    return segmentation.finish(got, config)
