"""PIRL pretraining (Misra & van der Maaten 2020) on any built dataset, with a memory bank and jigsaw puzzles.

    python -m radnet_jax.main --config=configs/pretrain/pirl.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is that of the public checkpoint (PyContrast's PIRL, 200 epochs): as `insdis.py`, with nine tiles of each
image beside it. ResNet-50 on ImageNet reaches 61.7 % linear top-1; the paper's own form, 63.6 % after 800 epochs.
`total_steps` is in steps: set it from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="pirl", temperature=0.07, draws=65536, momentum=0.5, bank_dtype="float32", projector_dim=128),
        natural="insdis",
        batch_size=256,
        epochs=200,
        warmup_epochs=0,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, exclude=common.NOTHING),
        rate=0.03,
        drops=(0.6, 0.8),
        smoke=dict(draws=256, projector_dim=64),
    )
    return config.lock()
