"""SeLa v2 pretraining (Asano et al. 2020, as Caron et al. 2020, appendix D have it) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/sela_v2.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`; the input is 160 px unless `size` says more.

As `deepcluster_v2.py`, with clusters of equal size by Sinkhorn-Knopp, two views of 160 px and four of 96 px, and 400
epochs. ResNet-50 on ImageNet reaches 71.8 % linear top-1; the authors' command is not published, and what is not said
of it is DeepCluster v2's here.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.pretraining(
        arg,
        dict(name="deepcluster", assignment="sinkhorn", prototypes=3000, clusterings=3, temperature=0.1, iterations=10)
        | dict(epsilon=0.05, sinkhorn_iterations=3, bank_dtype="float32"),
        natural="swav_multicrop",
        batch_size=4096,
        epochs=400,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9, exclude=common.NOTHING),
        rate=0.3,
        end_rate=0.0003,
        augment=common.multi_crop(4, local_size=96 / 160),
        smoke=dict(prototypes=16, projector_hidden=128, projector_dim=64),
        smoke_augment=dict(local_views=2),
        size=160,
    ).lock()
