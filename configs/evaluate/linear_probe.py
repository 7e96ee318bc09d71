"""Linear probe of a frozen backbone on any labelled dataset: truly linear, regularisation chosen on val.

    python -m radnet_jax.main --config=configs/evaluate/linear_probe.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

The backbone section must be that of the checkpoint: `backbone=NAME`, `smoke` for configs/pretrain's smoke network.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    arg = common.parse_arg(arg, backbone="resnet50", smoke=False)
    config = common.probe()
    config.name = "linear_probe"
    config.backbone = ConfigDict(dict(name="resnet18", base_width=16) if arg.smoke else dict(name=arg.backbone))
    return config.lock()
