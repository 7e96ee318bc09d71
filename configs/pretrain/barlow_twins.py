"""Barlow Twins pretraining (Zbontar et al. 2021) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/barlow_twins.py:domain=ct --config.data.dir=DATASET \
        --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is the paper's (section 2.2) in the authors' code: LARS with learning rate 0.2 x batch / 256 for weights and
0.0048 x batch / 256 for biases and norms, which have no weight decay (1e-6) and no trust ratio; 10 epochs of warm-up,
then cosine to a thousandth; BYOL's augmentation; each residual branch starts at zero. At batch 2048 and 1000 epochs
ResNet-50 on ImageNet reaches 73.2 % linear top-1 (table 1; 73.5 % is given for the published weights). `total_steps`
and `warmup_steps` are in steps: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

RATE = 0.2


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="barlow_twins", weight_off_diagonal=0.0051, projector_layers=3, dim=8192),
        natural="byol",
        batch_size=2048,
        epochs=1000,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9, rates=((r"/(bias|scale)$", 0.0048 / RATE),)),
        rate=RATE,
        end_rate=RATE / 1000,
        smoke=dict(dim=64),
    )
    config.backbone.zero_init_last = True
    return config.lock()
