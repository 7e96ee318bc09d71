"""Writes a checkpoint's backbone as one folder that others can load without this package, with its model card.

    python -m radnet_jax.main --config=configs/export.py --config.run_dir=PRETRAINING --workdir=EXPORT

docs/weights.md says what is in the folder.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = "export"
    config.run_dir = ""  # workdir of a pretraining, a fine-tuning or an import
    config.layout = ""  # names in model.safetensors: torchvision | timm | hugging_face; "" takes the usual one
    config.formats = ()  # of safetensors, npz, onnx, stablehlo; () takes those that suit the backbone
    config.evaluations = ""  # folder of finished runs; those that start from this checkpoint stand in the model card
    config.licence = "not stated"  # an SPDX name, for others to know what they may do
    config.intended_use = "Research: a start for fine-tuning and probing on medical images. Not a medical device."
    config.limits = ()  # sentences, beside those that follow from the record
    return config.lock()
