"""Any dataset with masks, judged by volume or, where there are none, by image: for your own.

    python -m data_prep.build --dataset=table --modality=XR --source=table.csv --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/segmentation.py:modality=XR --config.data.dir=DATASET \
        --config.init_from=PRETRAINING_WORKDIR --workdir=DIR

Variants: `modality=CT | XR | MR | US | fundus | photo` is what the images are; `hu` where they are Hounsfield units;
`channels=N` of the stored images; and those of configs/segmentation.py, of which `protocol` is the corrected one.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, segmentation


def get_config(arg: str = "") -> ConfigDict:
    got = segmentation.variant(arg, modality="XR", hu=False, channels=1)
    common.choice("protocol of your own dataset", got.protocol, ("corrected",))
    config = segmentation.corrected(
        got,
        task="segmentation",
        modality=common.choice("modality", got.modality, segmentation.MODALITIES),
        size=256,
        channels=got.channels,
        hu=got.hu,
    )
    return segmentation.finish(got, config)
