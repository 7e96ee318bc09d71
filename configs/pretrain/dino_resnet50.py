"""DINO pretraining (Caron et al. 2021) of a ResNet-50 on any built dataset; `dino.py` has its ViT-S/16.

    python -m radnet_jax.main --config=configs/pretrain/dino_resnet50.py:domain=ct --config.data.dir=DATASET \
        --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is that of the published ResNet-50 (the authors' code): LARS with learning rate 0.3 x batch / 256, 10 epochs
of warm-up, then cosine to 0.0048, weight decay 1e-6 without biases and norms, 60,000 outputs, BatchNorm in the
projector, teacher temperature rising from 0.04 to 0.07 in 50 epochs, two global views of 14 to 100 % and six local ones
of 5 to 14 % of the image. At batch 4080 and 800 epochs it reaches 75.3 % linear top-1 on ImageNet (table 2), with the
teacher's backbone. `total_steps` and `warmup_steps` are in steps: set them from your dataset's size; the rest follows.

Departures: batch 4096; and see `objectives/dino.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(
            name="dino",
            outputs=60000,
            hidden=2048,
            bottleneck=256,
            norm=True,
            momentum=0.996,
            temperature_first=0.04,
            temperature_last=0.07,
            temperature_epochs=50,
            frozen_epochs=1,
        ),
        natural="dino",
        batch_size=4096,
        epochs=800,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9),
        rate=0.3,
        end_rate=0.0048 / 16,
        augment=dict(crop=(0.14, 1.0), local_crop=(0.05, 0.14), local_views=6),
        smoke=dict(outputs=256, hidden=64, bottleneck=32, temperature_epochs=1),
        smoke_augment=dict(local_views=2),
    )
    return config.lock()
