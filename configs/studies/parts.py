"""What the large studies share: tasks from their own configs, datasets that are built already, SimCLR pretraining."""

from __future__ import annotations

from collections.abc import Mapping
import importlib
from typing import Any

from ml_collections import ConfigDict

from configs import common
from radnet_jax.study.naming import at


def task(name: str, dataset: str, variants: Mapping[str, str], *, fractions: tuple[float, ...] = (1.0,)) -> ConfigDict:
    """A task of a study from `configs/finetune/<name>.py`.

    Args:
      name: of the config.
      dataset: of the study.
      variants: {protocol of the study: variant of the config}; the first one says what a network from scratch sees.
      fractions: of the labels that it is run with; a config has its own steps, warm-up and sweep for each.
    """
    module = importlib.import_module(f"configs.finetune.{name}")
    first = next(iter(variants.values()))
    scratch = module.get_config(f"{first},scratch")
    crossing = module.get_config(f"{first},crossing").adapter.to_dict()
    configs = {}
    for protocol, variant in variants.items():
        for fraction in fractions:
            configs[at(protocol, fraction)] = module.get_config(
                variant if fraction == 1 else f"{variant},fraction={fraction:g}"
            )
    return ConfigDict(
        dict(
            dataset=dataset,
            input=scratch.input,
            primary_metric=scratch.primary_metric,
            adapters={m: crossing for m in ("photo", "CT", "XR") if m != scratch.input.modality},
            configs=configs,
        )
    )


SEGMENTATION = ("lits", "brats", "siim_acr", "montgomery", "drive", "scr", "busi")


def changed(config: ConfigDict, **sections: Any) -> ConfigDict:
    """A locked copy of a config with other fields; a section is updated field by field."""
    out = config.to_dict()
    for name, value in sections.items():
        out[name] = {**out[name], **value} if isinstance(value, dict) else value
    return ConfigDict(out).lock()


def built(folder: str, dataset: str, **options: Any) -> ConfigDict:
    """A dataset that is built already, in this folder of `config.data_root`; `options` are for the message."""
    return ConfigDict(dict(dataset=dataset, built=folder, options=dict(size=256) | options))


def simclr(
    dataset: str, domain: str, *, images: int, epochs: int, start: str = "", audit: bool = False, backbone: str = ""
) -> ConfigDict:
    """SimCLR with the paper's recipe on a dataset of so many training images; from a start, on the start's terms."""
    module = importlib.import_module("configs.pretrain.simclr")
    config = module.get_config(f"domain={domain}" + (",go_on,crossing" if start else ""))
    steps = images // config.batch_size
    config = changed(config, total_steps=epochs * steps, schedule=dict(warmup_steps=10 * steps))
    if backbone:
        config = changed(config, backbone=dict(name=backbone))
    return ConfigDict(dict(dataset=dataset, config=config, start=start, audit=audit))


def study(name: str) -> ConfigDict:
    """An empty study without pictures of its images in the report."""
    config = common.study(name)
    config.report.images = False
    return config
