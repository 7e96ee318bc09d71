"""Fine-tunes a classification head and its backbone on any labelled dataset, from a pretraining or from scratch.

    python -m radnet_jax.main --config=configs/finetune/classification.py:domain=ct --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR
    python -m radnet_jax.main --config=configs/finetune/classification.py:domain=ct,scratch \
        --config.data.dir=DATASET --workdir=DIR

Variants: `domain=ct | ct_pe | chest_xray | natural` is what the images are, and chooses the augmentation (ct_pe: three
windows of a chest CT); `scratch` starts from random weights (otherwise `init_from` is needed, whose checkpoint says
what it expects to see; with `crossing` it may be of another domain, and its backbone sees these images);
`backbone=NAME`, `size=N` (of the input, from scratch), `smoke` for a laptop.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    arg = common.parse_arg(arg, domain="ct", scratch=False, backbone="resnet50", size=0, smoke=False, crossing=False)
    domain = common.DOMAINS[common.choice("domain", arg.domain, common.DOMAINS)]
    config = common.train()
    config.name = "fine_tune"
    config.tags.update(kind="finetune", protocol="fine_tune")
    config.data.judge = ("val", "test")
    config.input = domain["input"](arg.size or (64 if arg.smoke else 224)) if arg.scratch else None
    config.adapter = common.crossing(arg.domain) if arg.crossing else None
    config.backbone = ConfigDict(dict(name=arg.backbone))
    config.augment.name = domain["fine_tune"]
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
