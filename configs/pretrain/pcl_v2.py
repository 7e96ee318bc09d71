"""PCL version 2 pretraining (Li et al. 2021, and the authors' repository) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/pcl_v2.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

As `pcl_v1.py`, with MoCo v2's changes: an MLP for the linear layer, its augmentation, and a cosine for the steps of the
learning rate. ResNet-50 on ImageNet reaches 67.6 % linear top-1 after 200 epochs.
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
            projector_layers=2,
            projector_hidden=2048,
            projector_dim=128,
        ),
        natural="moco_v2",
        batch_size=256,
        epochs=200,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        smoke=dict(queue=256, clusters=(8, 16), negatives=8, warmup_steps=1, restarts=2)
        | dict(projector_hidden=128, projector_dim=64),
    ).lock()
