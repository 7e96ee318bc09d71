"""InfoMin pretraining (Tian et al. 2020) on any built dataset: MoCo with strong views and jigsaw puzzles.

    python -m radnet_jax.main --config=configs/pretrain/infomin.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is that of the public checkpoint (PyContrast's InfoMin, 800 epochs) as far as it was published: SGD with
momentum 0.9, learning rate 0.03 at batch 256, cosine to a thousandth, weight decay 1e-4 on all parameters, temperature
0.15, a queue of 65,536 keys, momentum 0.999, RandAugment. Its ResNet-50 on ImageNet reaches 73.0 % linear top-1.
`total_steps` is in steps: set it from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="infomin", temperature=0.15, queue=65536, momentum=0.999, projector_hidden=2048, projector_dim=128),
        natural="infomin",
        batch_size=256,
        epochs=800,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        end_rate=0.03 / 1000,
        smoke=dict(queue=256, projector_hidden=128, projector_dim=64),
    )
    return config.lock()
