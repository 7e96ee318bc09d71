"""All pretraining objectives side by side, small: same backbone, data, epochs, batch and views, several seeds.

    head -c 32 /dev/urandom | base64 > SALT     # once: the secret that patient ids are hashed with
    export RADNET_JAX_SALT_FILE=$PWD/SALT
    python -m radnet_jax.main --config=configs/studies/objectives_mini.py --config.data_root=DIR --workdir=DIR
    python -m radnet_jax.main --config=configs/studies/objectives_mini.py:ct_only --workdir=DIR

`data_root` holds `chestxray14_mini` (the NIH layout: images/, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt).
Each objective is trained with three seeds on generated CT and on real X-rays, and its backbones are judged on body
regions and on finding / no finding by a linear probe and by nearest neighbours. `supervised` is trained on the labels
that the probes use: what the others are measured against, not one of them. MAE is left out: it needs another backbone.

It can be stopped and started again at any time. What it can show is which objectives learn something from some hundred
images in some hundred steps of a small network; the ranking at 800 epochs of ImageNet is another question. One learning
rate of AdamW serves all of them, and two whole views: multi-crop, which SwAV and DINO gain from, is off for all.
"""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from configs import common
from configs.studies import small

SIZE = 40
BACKBONE = dict(name="resnet18", base_width=8)
BATCH = 64
EPOCHS = 20
# Not MAE, which needs a ViT; nor `dino_resnet50` and `moco_v3_vit`, other recipes of objectives that are there.
OBJECTIVES = (
    *("insdis", "pirl", "moco_v1", "moco_v2", "moco_v3", "simclr", "simclr_v2", "infomin", "byol", "simsiam"),
    *("swav", "deepcluster_v2", "sela_v2", "pcl_v1", "pcl_v2", "barlow_twins", "vicreg", "dino", "supervised"),
)
# For schedules of some hundred steps, a target that follows within a hundred of them. The rest of the numbers are those
# of each config's `smoke`.
FOLLOWS = ("moco_v1", "moco_v2", "moco_v3", "infomin", "byol", "pcl_v1", "pcl_v2", "dino")
MOMENTUM = 0.99
DATA = {"ct": dict(task="body_region", steps_per_epoch=9), "chest_xray": dict(task="finding", steps_per_epoch=6)}


def get_config(arg: str = "") -> ConfigDict:
    variant = common.parse_arg(arg, ct_only=False)
    config = small.study("Which pretraining objective learns most from a few medical images?")
    config.seeds = (0, 1, 2)
    config.pretraining_seeds = True
    domains = ("ct",) if variant.ct_only else tuple(DATA)
    config.datasets.ct = dict(
        dataset="radnet",
        generate=dict(kind="ct", patients_per_region=40, slices=5, image_size=96, seed=0),
        source="",
        options=dict(size=48, seed=0, split_fractions=(0.5, 0.1, 0.4), workers=2),
    )
    if not variant.ct_only:
        config.datasets.chest_xray = dict(
            dataset="chestxray14",
            generate=None,
            source="chestxray14_mini",
            options=dict(view="finding", size=48, workers=2),
        )
    for domain in domains:
        config.tasks[DATA[domain]["task"]] = dict(
            dataset=domain,
            input=common.DOMAINS[domain]["input"](SIZE),
            adapters={},
            augment=dict(name=common.DOMAINS[domain]["fine_tune"]),
            primary_metric="accuracy" if domain == "ct" else "auroc",
        )
        for name in OBJECTIVES:
            config.pretraining[f"{name}_{domain}"] = dict(dataset=domain, config=pretraining(name, domain))
    config.starts.scratch = dict(pretraining="")
    for name in OBJECTIVES:
        config.starts[name] = dict(pretraining={DATA[domain]["task"]: f"{name}_{domain}" for domain in domains})
    probe, knn = small.linear_probe(), small.linear_probe()
    knn.probe.name = "knn"
    knn.tags.update(kind="knn", protocol="knn")
    probe.backbone = knn.backbone = ConfigDict(BACKBONE)
    config.protocols = ConfigDict(dict(linear_probe=dict(config=probe), knn=dict(config=knn)))
    config.compare.n_resamples = 50_000  # the level of 760 comparisons is .00007
    config.report.images = False  # forty pretrainings see the same views
    config.notes = (
        f"Small: a ResNet-18 of width 8 at {SIZE} px, {EPOCHS} epochs of some hundred images, one learning rate of "
        "AdamW for all objectives, two views without multi-crop. It shows which objectives learn something under these "
        "conditions, with this many seeds; it does not show how they rank with the published recipes or on large data.",
        "The start 'supervised' was trained on the labels that the probes use: a yardstick, not an objective among the "
        "others.",
    )
    return config.lock()


def pretraining(name: str, domain: str) -> ConfigDict:
    """The smoke variant of an objective's own config, with everything that is not the objective made alike."""
    config = importlib.import_module(f"configs.pretrain.{name}").get_config(f"smoke,domain={domain},size={SIZE}")
    config = ConfigDict(config.to_dict())
    config.backbone = ConfigDict(BACKBONE)
    config.batch_size = BATCH
    config.total_steps = EPOCHS * DATA[domain]["steps_per_epoch"]
    if name in FOLLOWS:
        config.objective.momentum = MOMENTUM
    if name in ("pcl_v1", "pcl_v2"):
        config.objective.warmup_steps = config.total_steps // 10  # as 20 of the paper's 200 epochs
    config.augment = ConfigDict(dict(name=common.DOMAINS[domain]["pretrain"]))
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4))
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=2e-3, warmup_steps=config.total_steps // 10))
    config.log_every = 10
    config.checkpoint = ConfigDict(dict(every=1000, keep=1))
    return config
