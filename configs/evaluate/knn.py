"""Nearest neighbours (k = 20, cosine) of a frozen backbone's features on any labelled dataset.

    python -m radnet_jax.main --config=configs/evaluate/knn.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    arg = common.parse_arg(arg, backbone="resnet50", smoke=False)
    config = common.probe()
    config.name = "knn"
    config.probe.name = "knn"
    config.tags.update(kind="knn", protocol="knn")
    config.backbone = ConfigDict(dict(name="resnet18", base_width=16) if arg.smoke else dict(name=arg.backbone))
    return config.lock()
