"""The RadNet study: does pretraining on CT beat pretraining on photographs, for which task, at which label budget?

    python -m radnet_jax.main --config=configs/studies/radnet.py --config.list=True --workdir=STUDY
    python -m radnet_jax.main --config=configs/studies/radnet.py --config.data_root=BUILT --workdir=STUDY

`BUILT` holds one folder for each dataset that `config.datasets` names, built with `data_prep.build`; a missing one is
named with its command. docs/run_a_study.md says how several machines work on it.

Its experiments (Jonske et al. 2025) are blocks of the matrix:

- E1 fine-tuning with all labels: scratch, ImageNet (I1k), CT (R: 1.2 million slices, RF: 12 million) on photographs
  (1,000 classes), body regions, chest X-rays, liver (LiTS), brain (BraTS);
- E2 with fewer labels, and with 100 and 10 classes of photographs;
- E3 with noise in training; one seed, as published;
- E4 with a frozen backbone; not from scratch;
- E6 and E8 pretraining on photographs and CT one after the other (IxRS) or together (IxRM), fine-tuned and frozen.
  What they have in common with E1 and E4 is run once.

E5 and E7 were not published.

Variants: `protocol=corrected` (default): five seeds, each with pretrainings of its own, the tasks' corrected protocols,
the frozen backbone judged by a linear probe (masks: by a decoder). `protocol=published`: four seeds on one pretraining
a corpus, the published recipes, with their known defects where these define the figures. Of those of its pretraining,
eighths of the batch, drawn and normalised apart, and scales and offsets of BatchNorm that never train are kept; a
projector without BatchNorm and with a sigmoid, and a second half of IxRS that was stopped before its rate had fallen,
are not. Its noise had one strength, ours has up to that strength. IxRM counts as photographs: CT is brought to 8 bits
when the mixture is built.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.studies import parts

PROTOCOLS = ("corrected", "published")
I1K, R, RF, MIXED = 1_281_167, 1_231_167, 12_034_617, 2_512_334  # training images
TASKS = ("imagenet", "body_region", "chestxray14", "lits", "brats")
# Standard deviations of the [0, 1] values; the study's own names for them.
NOISE = {
    "noise4": 1e-4, "noise3": 1e-3, "noise25e3": 2.5e-3, "noise5e3": 5e-3, "noise2": 1e-2, "noise25e2": 2.5e-2,
    "noise5e2": 5e-2,
}  # fmt: skip
STARTS = ("scratch", "I1k", "R", "RF")
FRACTIONS = {
    "imagenet": (0.1, 0.01),
    "imagenet_100": (1.0, 0.1, 0.01),
    "imagenet_10": (1.0, 0.1, 0.01),
    "body_region": (0.1, 0.01, 0.001),
    "chestxray14": (0.5, 0.1),
    "lits": (0.5, 0.1),
    "brats": (0.5, 0.1),
}


def get_config(arg: str = "") -> ConfigDict:
    variant = common.parse_arg(arg, protocol="corrected")
    published = common.choice("protocol", variant.protocol, PROTOCOLS) == "published"
    config = parts.study("RadNet: pretraining on CT or on photographs")
    config.seeds = (42, 1, 2, 3) if published else (0, 1, 2, 3, 4)
    config.pretraining_seeds = not published
    config.datasets = ConfigDict(
        dict(
            imagenet=parts.built("imagenet", "imagenet", classes=1000),
            imagenet_100=parts.built("imagenet_100", "imagenet", classes=100),
            imagenet_10=parts.built("imagenet_10", "imagenet", classes=10),
            radnet=parts.built("radnet", "radnet"),
            radnet_full=parts.built("radnet_full", "radnet"),
            mixed=parts.built("mixed", "mixture", windows="0:2000", modality="photo"),
            chestxray14=parts.built("chestxray14", "chestxray14", **(dict(view="15") if published else {})),
            lits=parts.built("lits", "lits", **(dict(format="png") if published else {})),
            brats=parts.built("brats", "brats", slices="tumour" if published else "all"),
        )
    )
    config.pretraining = pretrainings()
    if published:
        for name in config.pretraining:
            config.pretraining[name].config = published_pretraining(config.pretraining[name].config)
    config.starts = ConfigDict({s: dict(pretraining="" if s == "scratch" else s) for s in STARTS})
    for name in ("I1k_50", "IxRS", "IxRM"):
        config.starts[name] = dict(pretraining=name)
    for name in FRACTIONS:
        config.tasks[name] = task(name, published)
    config.protocols = ConfigDict({p: dict() for p in ("fine_tune", "frozen", *NOISE)})
    one = config.seeds[:1]
    config.blocks.E1 = dict(tasks=TASKS, protocols=("fine_tune",), starts=STARTS)
    for name, fractions in FRACTIONS.items():
        if published and name == "chestxray14":
            continue  # its 50 and 10 % were all of the images: E1 again
        config.blocks[f"E2_{name}"] = dict(tasks=(name,), protocols=("fine_tune",), starts=STARTS, fractions=fractions)
    config.blocks.E3 = dict(tasks=TASKS, protocols=tuple(NOISE), starts=STARTS, seeds=one)
    config.blocks.E4 = dict(tasks=TASKS, protocols=("frozen",), starts=STARTS[1:])
    mixed = dict(tasks=("imagenet", "body_region"), starts=("I1k", "R", "IxRS", "IxRM"))
    config.blocks.E6 = mixed | dict(protocols=("fine_tune",))
    config.blocks.E8 = mixed | dict(protocols=("frozen",))
    config.notes = (
        "E3 has one seed: nothing of it is compared over seeds.",
        *(("One pretraining a corpus: the verdicts are about these checkpoints.",) if published else ()),
    )
    return config.lock()


def pretrainings() -> ConfigDict:
    """SimCLR on each corpus, 100 epochs; in sequence 50 and 50, together 50."""
    return ConfigDict(
        dict(
            I1k=parts.simclr("imagenet", "natural", images=I1K, epochs=100),
            R=parts.simclr("radnet", "ct", images=R, epochs=100),
            RF=parts.simclr("radnet_full", "ct", images=RF, epochs=100),
            I1k_50=parts.simclr("imagenet", "natural", images=I1K, epochs=50),
            IxRS=parts.simclr("radnet", "ct", images=R, epochs=50, start="I1k_50"),
            IxRM=parts.simclr("mixed", "natural", images=MIXED, epochs=50),
        )
    )


def published_pretraining(config: ConfigDict) -> ConfigDict:
    """The published recipe: temperature 0.5, a rate of 4.8 without a warm-up, one draw of views for each device."""
    modality = config.input.modality if config.input else "CT"
    recipe = "radnet_published_ct" if modality == "CT" else "radnet_published"
    out = config.to_dict()
    out["augment"] = dict(name=recipe)
    out["groups"] = 8
    out["objective"] |= dict(temperature=0.5, projector_layers=3, projector_dim=256)
    out["optimizer"] |= dict(exclude=common.NOTHING, frozen=(r"backbone/.*(scale|bias)$",))
    out["schedule"] = dict(name="warmup_cosine", base_lr=4.8, warmup_steps=0)
    out["backbone"] = dict(name="resnet50")
    if config.input:
        out["input"] = common.each_image_input(256, modality)
    return ConfigDict(out).lock()


def task(name: str, published: bool) -> ConfigDict:
    """A task with its protocols: fine-tuning, a frozen backbone, noise in training."""
    module, _, classes = name.partition("_1")
    module = module if classes else name
    extra = f",classes=1{classes}" if classes else ""
    frozen = "frozen" if name in parts.SEGMENTATION else "probe=linear"
    if published:
        fine_tune = "protocol=published_radnet" if name == "chestxray14" else "protocol=published"
        frozen = f"{fine_tune},frozen" if name in parts.SEGMENTATION else f"{fine_tune}_linear"
    else:
        fine_tune = "protocol=corrected"
    variants = {"fine_tune": fine_tune + extra}
    if name in TASKS:
        variants["frozen"] = frozen + extra
    fractions = (1.0,) if published and name == "chestxray14" else FRACTIONS[name]
    out = parts.task(module, _dataset(name), {"fine_tune": variants["fine_tune"]}, fractions=(1.0, *fractions))
    if name in TASKS:
        out.configs.update(parts.task(module, _dataset(name), {"frozen": variants["frozen"]}).configs)
        of = "rician" if name == "brats" else "noise"
        for tag, std in NOISE.items():
            noise = {of: 1.0, f"{of}_std": std}
            out.configs[tag] = parts.changed(out.configs.fine_tune, augment=noise)
    return out


def _dataset(name: str) -> str:
    return "radnet" if name == "body_region" else name
