"""NIH ChestX-ray14: 14 findings of frontal chest X-rays; the target DXC14 of the transfer benchmark, CX8 of RadNet.

    python -m data_prep.build --dataset=chestxray14 --source=NIH --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/chestxray14.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING --workdir=DIR

Variants: see configs/tasks.py; and `protocol=published_radnet | published_radnet_linear`, whose 15 labels need
`--view=15` in the build.

`protocol=published` (Hosseinzadeh Taher et al. 2021; see `tasks.benchmark`): mean AUROC of ten runs in percent,
scratch 80.31 +- 0.10, ImageNet 81.70 +- 0.15, CheXpert 81.99 +- 0.08, ImageNet then CheXpert 82.25 +- 0.18. Its val
images, 13 % of the official training list, are not ours: which patients they were is not to be shared.
`protocol=published_radnet` (Jonske et al. 2025): AdamW at 5e-4, batch 128, 50 epochs, 15 sigmoids of which `No
Finding` weighs 0.001, and the mean of 15 AUROCs: scratch 72.02 +- 0.56, ImageNet SimCLR 75.39 +- 0.58, CT SimCLR
75.63 +- 0.73; `published_radnet_linear` 77.08 +- 0.60 (ImageNet) and 76.37 +- 0.46 (CT). Its val images shared
patients with train, ours do not; its 50 and 10 % were all of the images. The mean of its loss is over all labels,
ours over their weights: 7 % more, which AdamW does not see.

Cost: 75,000 X-rays; corrected 20 epochs and a sweep of 3 x 2, 2 million images; published: until the loss of val
stops falling; RadNet's 3.9 million.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import tasks

IMAGES = 75_312
PROTOCOLS = ("corrected", "published", "published_radnet", "published_radnet_linear")
RADNET_IMAGES = 77_888  # 90 % of the official training list, whole batches of 128
NO_FINDING_WEIGHT = 0.001


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg, protocols=PROTOCOLS)
    radnet = variant.protocol.startswith("published_radnet")
    config = tasks.task(
        variant,
        name="chestxray14",
        domain="chest_xray",
        metric="auroc",
        images=IMAGES,
        epochs=20,
        batch_size=64,
        command="--dataset=chestxray14 --size=256" + (" --view=15" if radnet else ""),
    )
    if variant.protocol == "published":
        tasks.benchmark(config, variant, images=IMAGES)
    elif radnet:
        tasks.radnet(
            config,
            variant,
            images=RADNET_IMAGES,
            epochs=50,
            batch_size=128,
            optimizer="adamw",
            rate=5e-4,
            weight_decay=1e-6,
            recipe="radnet_published_finetune_classification",
            class_weights=(1.0,) * 14 + (NO_FINDING_WEIGHT,),
        )
    return config.lock()
