"""VICReg pretraining (Bardes, Ponce and LeCun 2022) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/vicreg.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is the paper's (section 4.2): LARS with learning rate 0.2 x batch / 256, weight decay 1e-6 without biases and
norms, 10 epochs of warm-up, then cosine to 0.002, weights 25, 25 and 1 of the three terms, BYOL's augmentation. At
batch 2048 and 1000 epochs ResNet-50 on ImageNet reaches 73.2 % linear top-1 (table 1). `total_steps` and `warmup_steps`
are in steps: set them from your dataset's size.

Departures: the paper's appendix blurs and solarizes both views with one probability; here the two differ as BYOL's do,
with the same means.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="vicreg", invariance=25.0, variance=25.0, covariance=1.0, gamma=1.0, dim=8192),
        natural="byol",
        batch_size=2048,
        epochs=1000,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9),
        rate=0.2,
        end_rate=0.002 / 8,
        smoke=dict(dim=64),
    )
    config.backbone.zero_init_last = True  # each residual branch starts at zero, as in the authors' code
    return config.lock()
