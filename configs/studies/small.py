"""What the small studies share: a ResNet-18 of width 16, SimCLR for some hundred steps, short fine-tunings."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

BACKBONE = dict(name="resnet18", base_width=16)
# SimCLR's colour changes are made for hundreds of epochs: at full strength the loss stays at chance for 200 steps.
PHOTO_AUGMENT = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, crop=(0.3, 1.0), blur=0.2)


def study(name: str) -> ConfigDict:
    """A study whose protocols are a short fine-tuning and a linear probe."""
    config = common.study(name)
    config.protocols = ConfigDict(dict(fine_tune=dict(config=fine_tune()), linear_probe=dict(config=linear_probe())))
    return config


def pretraining(
    dataset: str, model_input: ConfigDict, recipe: str, *, total_steps: int, **augment: object
) -> ConfigDict:
    """SimCLR on a dataset of the study; `augment` overrides fields of the recipe."""
    config = common.train()
    config.backbone = ConfigDict(BACKBONE)
    config.input = model_input
    config.batch_size = 128
    config.total_steps = total_steps
    config.augment = ConfigDict(dict(name=recipe, **augment))
    config.objective = ConfigDict(dict(name="simclr", temperature=0.1, projector_hidden=128, projector_dim=64))
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4))
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=5e-3, warmup_steps=total_steps // 10))
    config.log_every = 10
    config.checkpoint = ConfigDict(dict(every=50, keep=2))
    return ConfigDict(dict(dataset=dataset, config=config))


def fine_tune() -> ConfigDict:
    """Fine-tuning of the backbone with a new head."""
    config = common.train()
    config.backbone = ConfigDict(BACKBONE)
    config.data.judge = ("val", "test")
    config.tags.update(kind="finetune", protocol="fine_tune")
    config.batch_size = 64
    config.total_steps = 60
    config.objective = ConfigDict(dict(name="classification", label_smoothing=0.0))
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4, grad_clip=1.0))
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=6))
    config.log_every = 10
    config.checkpoint = ConfigDict(dict(every=1000, keep=1))
    return config


def linear_probe() -> ConfigDict:
    """A linear probe of the frozen backbone."""
    config = common.probe()
    config.backbone = ConfigDict(BACKBONE)
    return config
