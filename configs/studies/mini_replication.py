"""A small replication on real images: is pretraining on the own domain better, judged in both domains?

    head -c 32 /dev/urandom | base64 > SALT     # once: the secret that patient ids are hashed with
    export RADNET_JAX_SALT_FILE=$PWD/SALT
    python -m radnet_jax.main --config=configs/studies/mini_replication.py --config.data_root=DIR --workdir=STUDY

`data_root` holds `chestxray14_mini` (the NIH layout: images/, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt),
`natural/imagenet_mini` and `natural/cifar10_mini` (class folders of photographs) and `ct_dicom` (CT series).

SimCLR on chest X-rays, on photographs, on CT slices, on X-rays and photographs together (mixed), and on photographs
and then X-rays (sequential): the same network, updates and images seen, six seeds, each with pretrainings of its own.
Judged by fine-tuning and a linear probe on finding / no finding (X-rays) and on ten classes of photographs, so that
each corpus is in-domain once and foreign once; CT is foreign to both.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.studies import small

SIZE = 48  # side of the model's input; records are a little larger, so that crops have room
STORED = 56
BATCH = 48  # not more than there are CT slices
STEPS = 600


def get_config() -> ConfigDict:
    config = small.study("Does pretraining in the own domain win, in both domains?")
    config.seeds = (0, 1, 2, 3, 4, 5)
    config.pretraining_seeds = True
    config.datasets = ConfigDict(
        dict(
            xray=_dataset("chestxray14", "chestxray14_mini", view="finding"),
            photographs=_dataset("image_folder", "natural/imagenet_mini", splits=("train",)),
            classes=_dataset("image_folder", "natural/cifar10_mini"),
            ct=_dataset("radnet", "ct_dicom", splits=("train",)),
            mixed=dict(
                dataset="mixture",
                mix=dict(xray=1.0, photographs=1.0),
                options=dict(size=STORED, splits=("train",), modality="photo", workers=2),
            ),
        )
    )
    photo, xray = common.photo_input(SIZE), common.xray_input(SIZE)
    config.pretraining.xray = _pretraining("xray", xray, "chest_xray")
    config.pretraining.natural = _pretraining("photographs", photo, "simclr", **small.PHOTO_AUGMENT)
    config.pretraining.ct = _pretraining("ct", common.ct_input(SIZE), "ct")
    config.pretraining.mixed = _pretraining("mixed", photo, "simclr", **small.PHOTO_AUGMENT)
    config.pretraining.natural_half = _pretraining(
        "photographs", photo, "simclr", total_steps=STEPS // 2, **small.PHOTO_AUGMENT
    )
    sequential = _pretraining("xray", None, "chest_xray", total_steps=STEPS // 2)
    sequential.config.adapter = common.crossing("chest_xray")
    config.pretraining.sequential = dict(dataset="xray", config=sequential.config, start="natural_half")
    for name in ("xray", "natural", "ct", "mixed", "sequential", "natural_half"):
        config.starts[name] = dict(pretraining=name)
    config.starts.scratch = dict(pretraining="")
    config.tasks.finding = dict(
        dataset="xray",
        input=xray,
        adapters={m: common.crossing("chest_xray") for m in ("photo", "CT")},
        augment=dict(name="finetune_chest_xray"),
        primary_metric="auroc",
    )
    config.tasks.photographs = dict(
        dataset="classes",
        input=photo,
        adapters={m: common.crossing("natural") for m in ("XR", "CT")},
        augment=dict(name="finetune_natural"),
        primary_metric="accuracy",
    )
    config.protocols.fine_tune.config.total_steps = 120
    config.protocols.fine_tune.config.schedule.warmup_steps = 12
    config.blocks.judged = dict(starts=("scratch", "ct", "natural", "xray", "mixed", "sequential"))
    config.notes = (
        f"Small: a ResNet-18 of width 16 at {SIZE} px, {STEPS} updates on some hundred images ({BATCH} at a time; 52 "
        "slices of two CT series). It shows whether the whole of it works on real images and which differences are "
        "large enough to be seen here; it says nothing about the published study's data, networks or budget.",
    )
    return config.lock()


def _dataset(name: str, source: str, **options: object) -> ConfigDict:
    return ConfigDict(dict(dataset=name, source=source, options=dict(size=STORED, workers=2) | options))


def _pretraining(
    dataset: str, model_input: ConfigDict | None, recipe: str, *, total_steps: int = STEPS, **augment: object
) -> ConfigDict:
    out = small.pretraining(dataset, model_input, recipe, total_steps=total_steps, **augment)
    out.config.batch_size = BATCH
    out.config.schedule.base_lr = 2e-3
    out.config.checkpoint.every = 1000
    return out
