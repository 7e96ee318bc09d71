"""The transfer benchmark: every public source of weights on every medical task, ten runs each.

    python -m radnet_jax.main --config=configs/studies/transfer_benchmark.py --config.list=True --workdir=STUDY
    python -m radnet_jax.main --config=configs/studies/transfer_benchmark.py \
        --config.data_root=BUILT --config.weights_root=STARTS --workdir=STUDY

`BUILT` holds one folder for each dataset that `config.datasets` names, `STARTS` one for each source, imported by
configs/import.py; what is missing is named with its command. docs/run_a_study.md says how machines share the work.

Variants: `protocol=corrected` (default), the learning rate chosen on val for each start; `protocol=published`
(Hosseinzadeh Taher et al. 2021, 2025), one rate for all. `backbone=resnet50 | convnext_base | swin_base`: a comparison
is of one architecture. With sources that were trained on chest X-rays the task of the same images is left out; so is,
but for `published`, SIIM-ACR with those of ChestX-ray14, whose images it has.

All runs of a source start from one checkpoint: ten runs show what seeds do, not what another pretraining would.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.studies import parts

PROTOCOLS = ("corrected", "published")
SOURCES = {  # by backbone: sources of configs/import.py
    "resnet50": (
        *("supervised_resnet", "insdis", "moco_v1", "moco_v2", "pirl", "pcl_v1", "pcl_v2", "simclr_v1", "simclr_v2"),
        *("sela_v2", "infomin", "byol", "deepcluster_v2", "swav", "barlow_twins", "inat2021", "inat2021_mini"),
        *("chestxray14", "chexpert", "imagenet_chestxray14", "imagenet_chexpert", "mimic_resnet50", "radimagenet"),
    ),
    "convnext_base": ("convnext", "convnext_in22k", "mimic_convnext_base"),
    "swin_base": ("swin", "swin_in22k", "mimic_swin_base"),
}
# What must not be judged on what: tasks of the images that a source was trained on.
SAME_IMAGES = {
    "chestxray14": ("chestxray14", "siim_acr"),
    "imagenet_chestxray14": ("chestxray14", "siim_acr"),
    "chexpert": ("chexpert",),
    "imagenet_chexpert": ("chexpert",),
}
PUBLISHED = {"chexpert": dict(views="all"), "vindr_cxr": dict(readers="any"), "drive": dict(outside="background")}
TASKS = {  # {task: (config, dataset, options of its build, to which PUBLISHED adds, variant)}
    "chestxray14": ("chestxray14", "chestxray14", {}, ""),
    "chexpert": ("chexpert", "chexpert", {}, ""),
    "shenzhen": ("shenzhen", "shenzhen", {}, ""),
    "vindr_cxr": ("vindr_cxr", "vindr_cxr", dict(findings="6"), ""),
    "rsna_pe": ("rsna_pe", "rsna_pe", {}, ""),
    "siim_acr": ("siim_acr", "siim_acr", {}, ""),
    "montgomery": ("montgomery", "montgomery", {}, ""),
    "drive": ("drive", "drive", dict(size=512), ""),
    "scr_clavicles": ("scr", "jsrt", dict(structure="clavicles"), ",structure=clavicles"),
    "scr_heart": ("scr", "jsrt", dict(structure="heart"), ",structure=heart"),
    "busi": ("busi", "busi", {}, ""),
}


def get_config(arg: str = "") -> ConfigDict:
    variant = common.parse_arg(arg, protocol="corrected", backbone="resnet50")
    protocol = common.choice("protocol", variant.protocol, PROTOCOLS)
    sources = SOURCES[common.choice("backbone", variant.backbone, SOURCES)]
    config = parts.study(f"Transfer benchmark: which source for which medical task ({variant.backbone})?")
    config.seeds = tuple(range(10))
    config.starts.scratch = dict()
    for name in sources:
        several = "" if name in _ONE_BACKBONE else f" --config.backbone={variant.backbone}"
        config.starts[name] = dict(
            weights=name,
            needs=f"import it: python -m radnet_jax.main --config=configs/import.py --config.source={name} "
            f"--config.file=FILE{several} --workdir=STARTS/{name}, and give --config.weights_root=STARTS",
        )
    for name, (module, dataset, options, more) in TASKS.items():
        own_build = PUBLISHED.get(name, {}) if protocol == "published" else {}
        config.datasets[name] = parts.built(name, dataset, **options, **own_build)
        own = f"protocol={protocol},backbone={variant.backbone}{more}"
        config.tasks[name] = parts.task(module, name, {"fine_tune": own})
    config.protocols.fine_tune = dict()
    free = tuple(s for s in ("scratch", *sources) if s not in SAME_IMAGES)
    config.blocks.all = dict(starts=free)
    for source, same in SAME_IMAGES.items():
        left_out = same[:1] if protocol == "published" else same
        if source in sources:
            tasks = tuple(t for t in TASKS if t not in left_out)
            config.blocks[source] = dict(starts=(source,), tasks=tasks)
    config.notes = (
        "One checkpoint a source: the verdicts are about these checkpoints, and sources differ in data, epochs and "
        "recipe as well as in their objective.",
    )
    if protocol == "published":
        config.notes += (
            "Starts from ChestX-ray14 have been trained on images of SIIM-ACR, as published: their results there "
            "measure no transfer.",
        )
    return config.lock()


_ONE_BACKBONE = {s for s in SOURCES["resnet50"] if s != "supervised_resnet"} | {
    "mimic_convnext_base",
    "mimic_swin_base",
}
