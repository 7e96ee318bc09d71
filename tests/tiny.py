"""Configs and datasets of a size for tests."""

from pathlib import Path

from ml_collections import ConfigDict

from radnet_jax.main import load_config

ROOT = Path(__file__).parent.parent
TAGS = dict(kind="finetune", task="body_region", protocol="fine_tune", start="ct", variant="", seed_varies=True)


def config(path, variant, dataset, **changes):
    """A config file's smoke variant on `dataset`, smaller still, with top-level fields changed."""
    defaults = dict(batch_size=16, log_every=2, checkpoint=dict(every=2, keep=2), eval_batch_size=16)
    loaded = load_config(ROOT / path, variant)
    resolved = change(loaded, data=loaded.data.to_dict() | {"dir": str(dataset)})
    resolved = change(resolved, **{k: v for k, v in defaults.items() if k in resolved})
    resolved = change(resolved, backbone=_smaller(loaded.backbone.to_dict()))
    return change(resolved, **changes)


def pretraining(dataset, **changes):
    return config("configs/pretrain/simclr.py", "smoke,size=24", dataset, **{"total_steps": 4, **changes})


def fine_tuning(dataset, variant="smoke,scratch,size=24", **changes):
    return config("configs/finetune/classification.py", variant, dataset, total_steps=4, **changes)


def _smaller(backbone):
    """A backbone of the same kind, for images of 24 px."""
    if not backbone["name"].startswith("vit"):
        return dict(name="resnet10", base_width=4)
    return backbone | dict(name="vit_tiny", width=16, depth=4, heads=2, patch=4, image_size=24)


def change(config, **changes):
    return ConfigDict(config.to_dict() | changes).lock()
