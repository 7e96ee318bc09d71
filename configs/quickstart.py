"""The whole study on generated data, minutes on two cores: which pretraining is best for body regions on CT?

    python -m radnet_jax.main --config=configs/quickstart.py --workdir=quickstart

Generates CT series (genuine DICOM files of phantoms) and dead-leaves images, builds array records of both, pretrains
with SimCLR on each, fine-tunes and probes {scratch, natural, ct} with several seeds, and writes quickstart/report.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.studies import small

SIZE = 64  # side of the model's input; records are a little larger, so that crops have room


def get_config() -> ConfigDict:
    config = small.study("Which pretraining is best for body regions on CT?")
    config.datasets = ConfigDict(
        dict(
            ct=dict(
                dataset="radnet",
                generate=dict(kind="ct", patients_per_region=40, slices=5, image_size=96, seed=0),
                source="",
                options=dict(size=72, seed=0, split_fractions=(0.5, 0.1, 0.4), workers=2),
            ),
            leaves=dict(
                dataset="image_folder",
                generate=dict(kind="leaves", images=1000, image_size=80, seed=0),
                source="",
                options=dict(size=72, splits=("train",), workers=2),
            ),
        )
    )
    config.pretraining.ct = small.pretraining("ct", common.ct_input(SIZE), "ct", total_steps=130)
    config.pretraining.natural = small.pretraining(
        "leaves", common.photo_input(SIZE), "simclr", total_steps=130, **small.PHOTO_AUGMENT
    )
    config.starts = ConfigDict({s: dict(pretraining="" if s == "scratch" else s) for s in ("scratch", "natural", "ct")})
    config.tasks.body_region = ConfigDict(
        dict(
            dataset="ct",
            input=common.ct_input(SIZE),
            # A photograph-trained start sees CT through a declared window, repeated to its three channels.
            adapters=dict(photo=dict(windows=((0.0, 2000.0),), channels="repeat")),
            augment=dict(name="finetune_ct"),
            primary_metric="accuracy",
        )
    )
    return config.lock()
