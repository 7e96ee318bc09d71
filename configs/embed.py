"""Writes the features of every record of a built dataset to features.parquet.

    python -m radnet_jax.main --config=configs/embed.py --config.init_from=START --config.data.dir=DATASET --workdir=DIR

START is the workdir of a pretraining or an import, or the name of an import in the folder of weights.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.base()
    config.run = "embed"
    config.name = "embed"
    config.splits = ()  # () takes all that the dataset has
    del config.backbone, config.tags, config.checkpoint, config.log_every, config.seed  # the start says what it is
    return config.lock()
