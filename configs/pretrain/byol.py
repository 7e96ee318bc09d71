"""BYOL pretraining (Grill et al. 2020) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/byol.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is the paper's (section 3.3): LARS with learning rate 0.2 x batch / 256, weight decay 1.5e-6 without biases
and norms, 10 epochs of warm-up, then cosine, momentum of the target 0.996 rising to 1. At batch 4096 and 1000 epochs
ResNet-50 on ImageNet reaches 74.3 % linear top-1 (table 1), after 300 epochs 72.5 % (appendix). `total_steps` and
`warmup_steps` are in steps: set them from your dataset's size; the momentum follows `total_steps`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="byol", momentum=0.996, hidden=4096, dim=256),
        natural="byol",
        batch_size=4096,
        epochs=1000,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1.5e-6, momentum=0.9),
        rate=0.2,
        smoke=dict(momentum=0.9, hidden=128, dim=64),
    )
    return config.lock()
