"""Domain-adaptive pretraining: a start of photographs goes on, supervised, on a large set of chest X-rays.

The second link of a chain, whose third is a task:

    python -m radnet_jax.main --config=configs/pretrain/supervised.py:domain=natural \
        --config.data.dir=IMAGENET --workdir=FIRST
    python -m radnet_jax.main --config=configs/adapt.py:source=chestxray14 \
        --config.data.dir=CHESTXRAY14 --config.init_from=FIRST --workdir=SECOND
    python -m radnet_jax.main --config=configs/finetune/shenzhen.py:crossing \
        --config.data.dir=SHENZHEN --config.init_from=SECOND --config.audit.sources="('CHESTXRAY14',)" --workdir=THIRD

`crossing` in the third, since the chain began with photographs and its backbone sees X-rays as it saw these. It first
looks for patients and images of its val and test that are in the training records of CHESTXRAY14 (SIIM-ACR's are
NIH's), and refuses to go on if there are any: docs/protocols.md.

Variants: `source=chestxray14 | chexpert | mimic_cxr`; `scratch`, "in-domain" pretraining without a first link;
`protocol=corrected`: AdamW at one rate, the last weights, nothing held back for a choice; `protocol=published`
(Hosseinzadeh Taher et al. 2021): the benchmark's own fine-tuning with the weights of val's lowest loss, which the third
link takes; `size=N`, `backbone=NAME`, `smoke`. Build commands: those of configs/finetune, and for MIMIC

    python -m data_prep.build --dataset=mimic_cxr --source=MIMIC --out=DATASET --size=256

Expected, mean AUROC of ten published runs: ImageNet then ChestX-ray14 to Shenzhen 98.47 +- 0.26 %, against 95.62
+- 0.63 from ImageNet. Cost: one to two million images.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tasks
from configs.finetune import chestxray14, chexpert

EPOCHS = {"chestxray14": 20, "chexpert": 5, "mimic_cxr": 5}
IMAGES = {"chestxray14": chestxray14.IMAGES, "chexpert": chexpert.IMAGES, "mimic_cxr": 230_000}  # frontal views, about


def get_config(arg: str = "") -> ConfigDict:
    variant = tasks.parse(arg, source="chestxray14")
    source = common.choice("source", variant.source, IMAGES)
    variant.crossing = not variant.scratch
    published = variant.protocol == "published"
    views = " --views=all" if published and source == "chexpert" else ""
    config = tasks.task(
        variant,
        name=source,
        domain="chest_xray",
        metric="auroc",
        images=IMAGES[source],
        epochs=EPOCHS[source],
        batch_size=64,
        command=f"--dataset={source} --size=256{views}",
    )
    if published:
        uncertain = dict(uncertain=(0.55, 0.85)) if source == "chexpert" else {}
        images = chexpert.PUBLISHED_IMAGES if source == "chexpert" else IMAGES[source]
        tasks.benchmark(config, variant, images=images, **uncertain)
        config.data.judge = ("val",)
    else:
        tasks.no_sweep(config)
        config.data.judge = ()
        config.select.every = 0
        config.average = 0.0
        config.judged_weights = "last"
    config.name = f"adapt to {source} {variant.protocol}"
    config.tags.update(kind="pretrain", task="", protocol="", start=source)
    return config.lock()
