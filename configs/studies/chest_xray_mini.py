"""The whole study on real images, small: which pretraining is best for finding / no finding on chest X-rays?

    head -c 32 /dev/urandom | base64 > SALT     # once: the secret that patient ids are hashed with
    export RADNET_JAX_SALT_FILE=$PWD/SALT
    python -m radnet_jax.main --config=configs/studies/chest_xray_mini.py --config.data_root=DIR --workdir=DIR

`data_root` holds `chestxray14_mini` (the NIH layout: images/, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt)
and `natural/imagenet_mini` (class folders of photographs). Pretrains with SimCLR on the X-rays of the train split and
on the photographs, and judges on the official test list, whose patients are in no other split.

A few hundred X-rays at 64 px: the report says what this can show (the ranking of these checkpoints on this task), and
its intervals say how little that is.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.studies import small

SIZE = 64


def get_config() -> ConfigDict:
    config = small.study("Which pretraining is best for finding / no finding on chest X-rays?")
    config.datasets = ConfigDict(
        dict(
            xray=dict(
                dataset="chestxray14",
                generate=None,
                source="chestxray14_mini",
                options=dict(view="finding", size=72, workers=2),
            ),
            photographs=dict(
                dataset="image_folder",
                generate=None,
                source="natural/imagenet_mini",
                options=dict(size=72, splits=("train",), workers=2),
            ),
        )
    )
    config.pretraining.xray = small.pretraining("xray", common.xray_input(SIZE), "chest_xray", total_steps=200)
    config.pretraining.natural = small.pretraining(
        "photographs", common.photo_input(SIZE), "simclr", total_steps=200, **small.PHOTO_AUGMENT
    )
    config.starts = ConfigDict(
        {s: dict(pretraining="" if s == "scratch" else s) for s in ("scratch", "natural", "xray")}
    )
    config.tasks.finding = ConfigDict(
        dict(
            dataset="xray",
            input=common.xray_input(SIZE),
            # A photograph-trained start sees the X-ray as a grey photograph.
            adapters=dict(photo=dict(windows=(), channels="repeat")),
            augment=dict(name="finetune_chest_xray"),
            primary_metric="auroc",
        )
    )
    return config.lock()
