"""SimCLR pretraining (Chen et al. 2020) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/simclr.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants: `domain=ct | chest_xray | natural` chooses the model input and the augmentation; `smoke` is a small network
and few steps for a laptop; `size=N` is the side of the model's input, which the records must have at least; `go_on`
starts from the checkpoint that `--config.init_from` names, with a schedule of its own (natural images first, then CT).

The recipe is the paper's: LARS with learning rate 0.3 x batch / 256, weight decay 1e-6 without biases and norms,
temperature 0.1, 10 epochs of linear warm-up, then cosine by step (section 2.2, appendix B.6). At batch 4096 and 100
epochs ResNet-50 on ImageNet reaches 64.5 % linear top-1 (the table of the authors' repository). `total_steps` and
`warmup_steps` are in steps: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    arg = common.parse_arg(arg, domain="ct", smoke=False, size=0, go_on=False)
    domain = common.DOMAINS[common.choice("domain", arg.domain, common.DOMAINS)]

    config = common.train()
    config.name = f"simclr {arg.domain}"
    config.batch_size = 4096
    config.total_steps = 100 * 312
    config.input = None if arg.go_on else domain["input"](arg.size or (64 if arg.smoke else 224))
    config.augment.name = domain["pretrain"]
    config.objective = ConfigDict(dict(name="simclr", temperature=0.1, projector_hidden=2048, projector_dim=128))
    config.optimizer = ConfigDict(dict(name="lars", weight_decay=1e-6, momentum=0.9))
    config.schedule = ConfigDict(
        dict(
            name="warmup_cosine",
            base_lr=config.get_ref("batch_size").to_float() * (0.3 / 256),  # follows --config.batch_size
            warmup_steps=10 * 312,
        )
    )
    if arg.smoke:
        config.backbone = ConfigDict(dict(name="resnet18", base_width=16))
        config.batch_size = 16
        config.total_steps = 20
        config.objective.projector_hidden = 128
        config.objective.projector_dim = 64
        config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4))
        config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=2))
        config.log_every = 5
    return config.lock()
