"""PCL version 1 pretraining (Li et al. 2021) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/pcl_v1.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the authors': SGD with momentum 0.9, learning rate 0.03 at batch 256, a tenth of it from 60 % of the 200
epochs and a hundredth from 80 %, weight decay 1e-4 on all parameters, a linear layer to 128, a queue of 16,384 keys,
momentum 0.999; three clusterings of 25,000, 50,000 and 100,000 prototypes before each epoch after the first 20, of 20
iterations with 5 restarts, and 16,384 negative prototypes. Temperature 0.2 is their repository's, 0.1 the paper's.
ResNet-50 on ImageNet reaches 61.5 % linear top-1. `clusters`, `total_steps` and `warmup_steps` of the objective are for
ImageNet: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.pretraining(
        arg,
        dict(
            name="pcl",
            temperature=0.2,
            queue=16384,
            momentum=0.999,
            clusters=(25_000, 50_000, 100_000),
            negatives=16384,
            bank_dtype="float32",
            warmup_steps=20 * (common.IMAGENET_IMAGES // 256),
            projector_layers=1,
            projector_dim=128,
        ),
        natural="moco_v1",
        batch_size=256,
        epochs=200,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        drops=(0.6, 0.8),
        smoke=dict(queue=256, clusters=(8, 16), negatives=8, warmup_steps=1, restarts=2, projector_dim=64),
    ).lock()
