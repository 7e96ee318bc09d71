"""SimCLR pretraining (Chen et al. 2020) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/simclr.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the paper's: LARS with learning rate 0.3 x batch / 256, weight decay 1e-6 without biases and norms,
temperature 0.1, 10 epochs of linear warm-up, then cosine by step (section 2.2, appendix B.6). At batch 4096 and 100
epochs ResNet-50 on ImageNet reaches 64.5 % linear top-1 (the authors' repository; 69.3 % after 1,000, in the paper).
`total_steps` and `warmup_steps` are in steps: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="simclr", temperature=0.1, projector_hidden=2048, projector_dim=128),
        natural="simclr",
        batch_size=4096,
        epochs=100,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9),
        rate=0.3,
        smoke=dict(projector_hidden=128, projector_dim=64),
    )
    config.backbone.zero_init_last = True  # each residual branch starts at zero, as in the authors' code
    return config.lock()
