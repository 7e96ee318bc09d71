"""SimCLR version 2 pretraining (Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", 2020).

    python -m radnet_jax.main --config=configs/pretrain/simclr_v2.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the paper's (section 2, appendix B): version 1's objective with a projector of three layers (2048, 2048,
128), LARS with learning rate 0.1 x sqrt(batch), which is 6.4 at 4,096, weight decay 1e-4 without biases and norms, 800
epochs, 5 % of them linear warm-up, then cosine. ResNet-50 on ImageNet (1x, without selective kernels) reaches 71.7 %
linear top-1. The optional memory of the paper is MoCo's (`configs/pretrain/moco_v2.py`) and is not used.
`total_steps` and `warmup_steps` are in steps: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="simclr", temperature=0.1, projector_layers=3, projector_hidden=2048, projector_dim=128),
        natural="simclr",
        batch_size=4096,
        epochs=800,
        warmup_epochs=40,
        optimizer=dict(name="lars", weight_decay=1e-4, momentum=0.9),
        rate=6.4,
        rate_batch=4096,
        rate_power=0.5,
        smoke=dict(projector_hidden=128, projector_dim=64),
    )
    config.backbone.zero_init_last = True  # each residual branch starts at zero, as in the authors' code
    return config.lock()
