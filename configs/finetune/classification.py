"""Fine-tunes a classification head and its backbone on any labelled dataset, from a pretraining or from scratch.

    python -m radnet_jax.main --config=configs/finetune/classification.py:input=ct --config.data.dir=DATASET \
        --workdir=DIR
    python -m radnet_jax.main --config=configs/finetune/classification.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: `input=ct | xray | photo` is what the model sees when it starts from scratch; without it `init_from` is
needed, whose checkpoint says what it expects to see. `backbone=NAME`, `size=N`, `smoke` for a laptop.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

_RECIPES = {"ct": "finetune_ct", "xray": "finetune_chest_xray", "photo": "finetune_natural", "": "none"}


def get_config(arg: str = "") -> ConfigDict:
    arg = common.parse_arg(arg, input="", backbone="resnet50", size=0, smoke=False)
    common.choice("input", arg.input, _RECIPES)
    config = common.train()
    config.name = "fine_tune"
    config.tags.update(kind="finetune", protocol="fine_tune")
    config.data.judge = ("val", "test")
    config.input = common.INPUTS[arg.input](arg.size or (64 if arg.smoke else 224)) if arg.input else None
    config.backbone = ConfigDict(dict(name=arg.backbone))
    config.augment.name = _RECIPES[arg.input]
    config.objective = ConfigDict(dict(name="classification", label_smoothing=0.0))
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4, grad_clip=1.0))
    config.batch_size = 128
    config.total_steps = 5000
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=5e-4, warmup_steps=250))
    if arg.smoke:
        config.backbone = ConfigDict(dict(name="resnet18", base_width=16))
        config.batch_size = 16
        config.total_steps = 20
        config.schedule.warmup_steps = 2
        config.log_every = 5
    return config.lock()
