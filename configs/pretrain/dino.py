"""DINO pretraining (Caron et al. 2021) of a ViT-S/16 on any built dataset; `dino_resnet50.py` has its ResNet-50.

    python -m radnet_jax.main --config=configs/pretrain/dino.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is that of the published ViT-S/16 (section 3.2 and the authors' code): AdamW with learning rate
0.0005 x batch / 256, 10 epochs of warm-up, then cosine to 1e-5, weight decay rising from 0.04 to 0.4 by a cosine,
without biases and norms, teacher temperature rising from 0.04 to 0.07 in 30 epochs, last layer frozen for one, two
global views of 25 to 100 % and ten local ones of 5 to 25 % of the image. At batch 1024 and 800 epochs it reaches 77.0 %
linear top-1 on ImageNet (table 2), with the teacher's backbone and the class tokens of four layers. `total_steps` and
`warmup_steps` are in steps: set them from your dataset's size; the rest follows.

Departures: no stochastic depth (theirs: 0.1), and see `objectives/dino.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(
            name="dino",
            outputs=65536,
            hidden=2048,
            bottleneck=256,
            norm=False,
            momentum=0.996,
            temperature_first=0.04,
            temperature_last=0.07,
            temperature_epochs=30,
            frozen_epochs=1,
        ),
        natural="dino",
        batch_size=1024,
        epochs=800,
        warmup_epochs=10,
        optimizer=dict(name="adamw", weight_decay=0.04, last_weight_decay=0.4),
        rate=0.0005,
        end_rate=1e-5 / 4,
        augment=dict(crop=(0.25, 1.0), local_crop=(0.05, 0.25), local_views=10),
        smoke=dict(outputs=256, hidden=64, bottleneck=32, temperature_epochs=1),
        backbone="vit_small",
        smoke_backbone=dict(name="vit_tiny", width=64, depth=4, heads=2, patch=8, image_size=64),
        smoke_augment=dict(local_size=0.5, local_views=2),  # of whole patches
    )
    return config.lock()
