"""CheXpert: 14 observations of chest X-rays, judged by the competition's five; the benchmark's target DXC5.

    python -m data_prep.build --dataset=chexpert --source=CHEXPERT --out=DATASET --size=256
    python -m radnet_jax.main --config=configs/finetune/chexpert.py --config.data.dir=DATASET \
        --config.init_from=PRETRAINING --workdir=DIR

Variants: see configs/tasks.py. All 14 are trained; atelectasis, cardiomegaly, consolidation, oedema and pleural
effusion are judged (`config.data.judged_labels`).

Uncertain labels (-1): the build leaves them out by `label_mask` (`--uncertain=ignore`), or makes them 0, 1, or each
finding's best (`--uncertain=zeros | ones | best`, Irvin et al. 2019, table 3). With `ignore` there is one policy
more: `--config.objective.uncertain="(0.55, 0.85)"` draws a soft label anew in each step (LSR-Ones: Pham et al. 2021).

`protocol=published` (Hosseinzadeh Taher et al. 2021; see `tasks.benchmark`): LSR-Ones, frontal and lateral views
(`--views=all` in the build). Mean AUROC of the five, ten runs, in percent: scratch 86.60 +- 0.17, ImageNet 87.10 +-
0.36, ChestX-ray14 87.40 +- 0.26, ImageNet then ChestX-ray14 87.09 +- 0.44. Which images were val and test is not
documented. Not reproduced: val was relabelled at random too, so that its loss was noise in part; here val leaves
uncertain labels out.

Cost: 191,000 frontal X-rays; corrected 5 epochs and a sweep of 3 x 0.5, 1.2 million images; published: until the loss
of val stops falling.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import tasks

IMAGES = 181_000  # frontal, without val
PUBLISHED_IMAGES = 212_000  # all views, without val
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg)
    config = tasks.task(
        variant,
        name="chexpert",
        domain="chest_xray",
        metric="auroc",
        images=IMAGES,
        epochs=5,
        batch_size=64,
        command="--dataset=chexpert --size=256" + (" --views=all" if variant.protocol == "published" else ""),
        judged_labels=COMPETITION,
    )
    if variant.protocol == "published":
        tasks.benchmark(config, variant, images=PUBLISHED_IMAGES, uncertain=(0.55, 0.85))
    return config.lock()
