r"""MoCo version 3 pretraining of a vision transformer, ViT-S/16 (Chen, Xie & He 2021), on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/moco_v3_vit.py:domain=ct --config.data.dir=DATASET \
        --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is that of the authors' repository: AdamW with learning rate 1.5e-4 x batch / 256, weight decay 0.1, 40 of
300 epochs of warm-up, then cosine, temperature 0.2, momentum of the target 0.99 rising to 1, a projector of three
layers. The projection of the patches stays as it was drawn, which keeps the training stable (section 4.2), and
positions are fixed sines (appendix). At batch 4096 ViT-S/16 with 12 heads on ImageNet reaches 73.2 % linear top-1; for
ViT-B/16, 76.7 %, set --config.backbone.name=vit_base. `total_steps` and `warmup_steps` are in steps: set them from your
dataset's size; the momentum follows `total_steps`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(
            name="moco_v3",
            temperature=0.2,
            momentum=0.99,
            hidden=4096,
            dim=256,
            projector_layers=3,
            predictor_last_norm=True,
        ),
        natural="byol",
        batch_size=4096,
        epochs=300,
        warmup_epochs=40,
        optimizer=dict(name="adamw", weight_decay=0.1, exclude=common.NOTHING, frozen=("backbone/patch_embed",)),
        rate=1.5e-4,
        backbone="vit_small",
        smoke=dict(momentum=0.9, hidden=128, dim=64),
        smoke_backbone=dict(name="vit_small", width=96, depth=4, patch=8),
    )
    config.backbone.update(dict(position="sincos", heads=12))
    return config.lock()
