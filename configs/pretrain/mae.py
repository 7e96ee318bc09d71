r"""MAE pretraining (He et al. 2021) of a ViT-B/16 on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/mae.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is the paper's (appendix A.1): AdamW with learning rate 1.5e-4 x batch / 256, beta2 0.95, weight decay 0.05
without biases and norms, 40 epochs of warm-up, then cosine, 75 % of the patches masked, a decoder of 8 layers and width
512, crops and mirror images only. At batch 4096 and 1600 epochs ViT-B/16 reaches 83.6 % top-1 on ImageNet when it is
fine-tuned (table 3), and 68.0 % with a linear probe. `total_steps` and `warmup_steps` are in steps: set them from your
dataset's size.

A fine-tuning names the same backbone:

    python -m radnet_jax.main --config=configs/finetune/classification.py:domain=ct,backbone=vit_base \
        --config.backbone.position=sincos --config.backbone.pool=mean --config.init_from=DIR \
        --config.data.dir=TASK --workdir=TASK_DIR

The published RadNet study's is `--config.backbone.heads=6 --config.objective.decoder_width=768
--config.objective.decoder_depth=12 --config.objective.decoder_heads=6`; the rest of its recipe is unknown.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="mae", mask_ratio=0.75, decoder_width=512, decoder_depth=8, decoder_heads=16),
        natural="mae",
        batch_size=4096,
        epochs=1600,
        warmup_epochs=40,
        optimizer=dict(name="adamw", weight_decay=0.05, b2=0.95),
        rate=1.5e-4,
        smoke=dict(decoder_width=32, decoder_depth=2, decoder_heads=2),
        backbone="vit_base",
        smoke_backbone=dict(name="vit_tiny", width=64, depth=4, heads=2, patch=8, image_size=64),
    )
    config.backbone.update(position="sincos", pool="mean")
    return config.lock()
