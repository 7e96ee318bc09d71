"""MoCo version 1 pretraining (He et al. 2020) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/moco_v1.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the paper's (section 4): SGD with momentum 0.9, learning rate 0.03 at batch 256, a tenth of it from 60 %
of the 200 epochs and a hundredth from 80 %, weight decay 1e-4 on all parameters, a linear layer to 128, temperature
0.07, a queue of 65,536 keys (a multiple of the batch), momentum 0.999. ResNet-50 on ImageNet reaches 60.6 % linear
top-1 (the paper and its published weights; the mean of five runs in the repository is 60.8 %). `total_steps` is in
steps: set it from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="moco", temperature=0.07, queue=65536, momentum=0.999, projector_layers=1, projector_dim=128),
        natural="moco_v1",
        batch_size=256,
        epochs=200,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        drops=(0.6, 0.8),
        smoke=dict(queue=256, projector_dim=64),
    )
    return config.lock()
