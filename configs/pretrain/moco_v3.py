"""MoCo version 3 pretraining of a ResNet-50 (Chen, Xie & He 2021) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/moco_v3.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`. Transformers: `moco_v3_vit.py`.

The recipe is that of the authors' repository for 1000 epochs: LARS with learning rate 0.3 x batch / 256, weight decay
1.5e-6 without biases and norms, 10 epochs of warm-up, then cosine, temperature 1, momentum of the target 0.996 rising
to 1. At batch 4096 ResNet-50 on ImageNet reaches 74.6 % linear top-1 (the repository's published weights).
`total_steps` and `warmup_steps` are in steps: set them from your dataset's size; the momentum follows `total_steps`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="moco_v3", temperature=1.0, momentum=0.996, hidden=4096, dim=256),
        natural="moco_v3",
        batch_size=4096,
        epochs=1000,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1.5e-6, momentum=0.9),
        rate=0.3,
        smoke=dict(momentum=0.9, hidden=128, dim=64),
    )
    config.backbone.zero_init_last = True  # each residual branch starts at zero, as in the authors' code
    return config.lock()
