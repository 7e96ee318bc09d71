"""SimSiam pretraining (Chen and He 2021) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/simsiam.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is the paper's (section 3, "Baseline settings"): SGD with learning rate 0.05 x batch / 256 and no warm-up,
cosine, weight decay 1e-4 of all parameters, the predictor's rate constant (the authors' code), MoCo v2's augmentation.
At batch 512 and 100 epochs ResNet-50 on ImageNet reaches 68.1 % linear top-1 (section 4.2). `total_steps` is in steps:
set it from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="simsiam", dim=2048, bottleneck=512),
        natural="moco_v2",
        batch_size=512,
        epochs=100,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude="(?!)", constant=("^predictor/",)),
        rate=0.05,
        smoke=dict(dim=128, bottleneck=32),
    )
    config.backbone.zero_init_last = True  # each residual branch starts at zero, as in the authors' code
    return config.lock()
