"""DeepCluster v2 pretraining (Caron et al. 2020, appendix D) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/deepcluster_v2.py:domain=ct --config.data.dir=DATASET \\
        --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the authors' for 800 epochs at batch 4096: three clusterings of 3,000 prototypes by spherical k-means
before each epoch, the views and the optimizer of `swav.py` (whose notes on LARC hold here too). ResNet-50 on ImageNet
reaches 75.2 % linear top-1. `prototypes`, `total_steps` and `warmup_steps` are for ImageNet: set them from your
dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.pretraining(
        arg,
        dict(name="deepcluster", assignment="kmeans", prototypes=3000, clusterings=3, temperature=0.1, iterations=10)
        | dict(bank_dtype="float32"),
        natural="swav_multicrop",
        batch_size=4096,
        epochs=800,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9, exclude=common.NOTHING),
        rate=0.3,
        end_rate=0.0003,
        augment=common.multi_crop(6),
        smoke=dict(prototypes=16, projector_hidden=128, projector_dim=64),
        smoke_augment=dict(local_views=2),
    ).lock()
