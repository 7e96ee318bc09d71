"""Imports public weights as a start: strictly, and with a report of what they are.

    python -m radnet_jax.main --config=configs/import.py --config.source=moco_v2 --config.file=PATH \
        --workdir=STARTS/moco_v2

Then `--config.init_from=STARTS/moco_v2` in any run, or `radnet_jax.load("STARTS/moco_v2")`. docs/weights.md has the
table of sources. Nothing is downloaded and nothing of the file is run.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = "import"
    config.source = ""  # name of a card, or the path of one of your own
    config.file = ""  # .pth, .safetensors, .npz, .pkl, or the prefix or folder of a TensorFlow checkpoint
    config.backbone = ""  # where the source comes in several
    config.arguments = placeholder(ConfigDict)  # of the backbone, where the file differs from the card
    config.stem = "repeat"  # repeat | sum: three channels, to which grey images are repeated, or one, filters summed
    config.rescale = "none"  # none | initial: kernels in front of a BatchNorm get the norm of fresh ones
    config.input = placeholder(ConfigDict)  # what the weights expect to see, in place of the card's
    return config.lock()
