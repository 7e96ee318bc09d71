"""BraTS 2020: gliomas in MR, judged by patient in the regions ET, TC and WT.

    python -m data_prep.build --dataset=brats --source=BRATS --out=DATASET --size=256 --slices=tumour
    python -m radnet_jax.main --config=configs/finetune/brats.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: those of configs/segmentation.py. T1, T1ce and FLAIR are the three channels; for a start that was trained on
other images add `crossing`.

`protocol=published` is the RadNet study's (Jonske et al. 2025): U-Net, cross entropy weighted 1, 5, 5, 5, AdamW at
1e-3, 0.95 an epoch, 153 steps an epoch. Its Dice pools batches of 128 shuffled slices: `dice_radnet_published` of
run.json. Published (4 runs, per cent): ET 85.47 +- 0.11, WT 89.46 +- 0.40, TC 84.57 +- 0.59 from ImageNet; 85.03,
89.06, 83.99 from its CT; 84.95, 89.09, 83.97 from scratch. Its figures have TC and WT the wrong way round. Test volumes
are not published.

The default is ours, and needs whole volumes (--slices=all) where its figures are to compare with the challenge's:
without slices that show no tumour, false findings in them go unseen.

Cost: published 7,650 steps of 128 slices of 256 px (ResNet-50); the default 8,000 steps of 32.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg)
    published = got.protocol == "published"
    config = segmentation.corrected(
        got,
        task="brats",
        command="--dataset=brats --size=256" + (" --slices=tumour" if published else ""),
        modality="MR",
        size=256,
        regions="brats",
        primary_metric="dice_empty_is_one",
        tolerance=1.0,
        lesions="brats_2023",
        channels=3,
    )
    if published:
        segmentation.radnet(
            got,
            config,
            weights=(1.0, 5.0, 5.0, 5.0),
            rate=1e-3,
            weight_decay=1e-5,
            decay=0.95,
            steps_per_epoch=153,
            augment=dict(jitter=0.0),
        )
    return segmentation.finish(got, config)
