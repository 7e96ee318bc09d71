"""MoCo version 2 pretraining (Chen, Fan, Girshick & He, "Improved Baselines with Momentum Contrastive Learning", 2020).

    python -m radnet_jax.main --config=configs/pretrain/moco_v2.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the paper's (section 3): version 1's with an MLP to 2048 and 128 with ReLU and no norm, temperature 0.2,
blur, and a cosine schedule over 800 epochs. ResNet-50 on ImageNet reaches 71.1 % linear top-1 (table 2); after 200
epochs 67.5 % (the paper, and the mean of five runs in its repository, whose published weights have 67.7 %).
`total_steps` is in steps: set it from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(
            name="moco",
            temperature=0.2,
            queue=65536,
            momentum=0.999,
            projector_layers=2,
            projector_hidden=2048,
            projector_dim=128,
        ),
        natural="moco_v2",
        batch_size=256,
        epochs=800,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        smoke=dict(queue=256, projector_hidden=128, projector_dim=64),
    )
    return config.lock()
