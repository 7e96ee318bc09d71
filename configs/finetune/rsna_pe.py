"""Pulmonary embolism on slices of CT angiograms (RSNA-STR 2020): the transfer benchmark's target ECC.

    python -m data_prep.build --dataset=rsna_pe --source=RSNA --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/rsna_pe.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING --workdir=DIR

Variants: see configs/tasks.py. The model sees three windows as three channels (lung, embolism, mediastinum); a start
of photographs does so with `crossing`. One slice in twenty shows an embolism:
`--config.objective.logit_adjustment=1.0` or `class_weights=balanced` of the objective trade the classes off, AUROC
hardly moves.

`protocol=published` is the benchmark's classification (see `tasks.benchmark`), which is all that can be said: its
releases have no code, split or recipe for this target. The figures in its charts, AUROC of ten runs in percent
(digitised): ImageNet 94.73, SimCLR 95.44, SwAV 95.61, MoCo v2 89.19. They can't be reproduced from what is known
(lungs were cropped; 1,000 of 7,279 exams were the test).

Cost: 1.25 million slices (70 % of the exams); corrected 3 epochs and a sweep of 3 x 0.3, 4.9 million images;
published: until the loss of val stops falling.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import tasks

IMAGES = 1_250_000


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg)
    config = tasks.task(
        variant,
        name="rsna_pe",
        domain="ct_pe",
        metric="auroc",
        images=IMAGES,
        epochs=3,
        batch_size=128,
        command="--dataset=rsna_pe --size=256",
    )
    if variant.protocol == "published":
        tasks.benchmark(config, variant, images=IMAGES)
    return config.lock()
