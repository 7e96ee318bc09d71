"""Instance discrimination (Wu et al. 2018) on any built dataset, with a memory bank.

    python -m radnet_jax.main --config=configs/pretrain/insdis.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is that of the public checkpoint (PyContrast's InsDis, 200 epochs): SGD with momentum 0.9, learning rate 0.03
at batch 256, a tenth of it from 60 % of the run and a hundredth from 80 %, weight decay 1e-4 on all parameters, a
linear layer to 128, temperature 0.07, 65,536 rows drawn from the bank, whose momentum is 0.5. ResNet-50 on ImageNet
reaches 59.5 % linear top-1; the paper's own form, 54.0 %. `total_steps` is in steps: set it from your dataset's size.

The bank has 512 bytes for each training example, divided over the devices; --config.objective.bank_dtype=bfloat16
halves it.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="insdis", temperature=0.07, draws=65536, momentum=0.5, bank_dtype="float32", projector_dim=128),
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
