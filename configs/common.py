"""What the configs share: the sections of a run with every field, model inputs, and how a variant is read.

A section with a `name` is unpacked as keyword arguments of the registered part of that name; arguments that are not
given keep the part's own defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from radnet_jax.errors import UserError, nearest


def parse_arg(arg: str, **defaults: object) -> ConfigDict:
    """Reads a variant such as `smoke,domain=ct` against defaults, whose types it takes.

    A bare word sets a boolean. An unknown word is refused.
    """
    values = dict(defaults)
    for word in filter(None, arg.split(",")):
        name, _, value = word.partition("=")
        if name not in defaults:
            raise UserError(
                f"unknown variant {name!r}{nearest(name, defaults)}", expected=f"one of {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        try:
            values[name] = (value or "true").lower() in ("1", "true", "yes") if kind is bool else kind(value)
        except ValueError as error:
            raise UserError(f"variant {name}", got=repr(value), expected=f"of type {kind.__name__}") from error
    return ConfigDict(values)


def choice(what: str, value: str, valid: Iterable[str]) -> str:
    """Returns `value`, or refuses one that is not among the valid ones."""
    if value not in (valid := list(valid)):
        raise UserError(f"unknown {what} {value!r}{nearest(value, valid)}", expected=f"one of {', '.join(valid)}")
    return value


def ct_input(size: int) -> ConfigDict:
    """CT in a wide window (air to contrast-filled bone), repeated to three channels."""
    return ConfigDict(
        dict(
            modality="CT",
            channels=3,
            size=(size, size),
            windows=((0.0, 2000.0),),  # (centre, width) in HU
            value_range=None,
            mean=(0.35,) * 3,
            std=(0.25,) * 3,
        )
    )


# (centre, width) in HU: lung, pulmonary embolism, mediastinum; as the channels red, green, blue of what the RSNA
# embolism challenge was won with, and of the transfer benchmark's task.
PE_WINDOWS = ((-600.0, 1500.0), (100.0, 700.0), (40.0, 400.0))


def pe_input(size: int) -> ConfigDict:
    """CT angiograms of the chest in three windows, one for each channel."""
    return ConfigDict(
        dict(
            modality="CT",
            channels=3,
            size=(size, size),
            windows=PE_WINDOWS,
            value_range=None,
            mean=(0.65, 0.2, 0.25),
            std=(0.3, 0.2, 0.25),
        )
    )


def scaled_input(
    modality: str,
    size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    value_range: tuple[float, float] | str = (0.0, 255.0),
) -> ConfigDict:
    """Three channels whose `value_range` becomes [0, 1], then standardised."""
    return ConfigDict(
        dict(
            modality=modality,
            channels=3,
            size=(size, size),
            windows=(),
            value_range=value_range,
            mean=mean,
            std=std,
        )
    )


def xray_input(size: int) -> ConfigDict:
    """8-bit X-rays scaled to [0, 1], repeated to three channels."""
    return scaled_input("XR", size, mean=(0.5,) * 3, std=(0.25,) * 3)


def photo_input(size: int) -> ConfigDict:
    """8-bit colour photographs with the usual ImageNet mean and standard deviation."""
    return scaled_input("photo", size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def each_image_input(size: int, modality: str) -> ConfigDict:
    """Each image scaled from its own minimum to its own maximum, as the published RadNet study had it: HU are lost."""
    return scaled_input(modality, size, mean=(0.0,) * 3, std=(1.0,) * 3, value_range="image")


# What the images are: the model input of a network that starts from scratch, and the names of the augmentation recipes.
DOMAINS = {
    "ct": dict(input=ct_input, pretrain="ct", fine_tune="finetune_ct"),
    "ct_pe": dict(input=pe_input, pretrain="ct", fine_tune="finetune_ct"),
    "chest_xray": dict(input=xray_input, pretrain="chest_xray", fine_tune="finetune_chest_xray"),
    "natural": dict(input=photo_input, pretrain="simclr", fine_tune="finetune_natural"),
}


def crossing(domain: str) -> ConfigDict:
    """Declares that a start with three channels, of any modality, sees the images of this domain."""
    windows = DOMAINS[domain]["input"](1).windows
    return ConfigDict(dict(windows=windows, channels="keep" if domain in ("natural", "ct_pe") else "repeat"))


def base() -> ConfigDict:
    """The fields that every run on one dataset has."""
    config = ConfigDict()
    config.run = "train"  # train | probe | study
    config.name = ""  # shown in the progress line and the report
    config.seed = 0
    config.data = ConfigDict(
        dict(
            dir="",  # folder of a built dataset
            split="train",
            subset=dict(fraction=1.0, shots=0),  # of train: of the patients, or so many records of each class
            judge=(),  # splits that the run is judged on; () for pretraining
            missing_classes="refuse",  # refuse | allow: what is done about a class that no training record has
            judged_labels=(),  # those that results are about; () for all
        )
    )
    config.input = placeholder(ConfigDict)  # what the model sees; None with init_from, whose checkpoint says it
    config.adapter = placeholder(ConfigDict)  # declared crossing of modalities: windows, channels
    config.backbone = ConfigDict(dict(name="resnet50"))
    config.init_from = ""  # workdir of a pretraining run; "" starts at random
    config.primary_metric = "accuracy"
    config.eval_batch_size = 256
    # Datasets that the start was trained on, and what is done where one shares patients or images with a judged split.
    config.audit = ConfigDict(dict(sources=(), on_leak="refuse"))  # refuse | warn
    config.dataset_command = ""  # what builds the dataset: for the message where it is missing
    # Where the run stands in a study; says nothing about the result.
    config.tags = ConfigDict(
        dict(kind="pretrain", task="", protocol="", start="", variant="", fraction=1.0, seed_varies=True)
    )
    config.log_every = 50
    config.checkpoint = ConfigDict(dict(every=1000, keep=2))
    return config


def train() -> ConfigDict:
    """A training run: `base` and what the loop needs; pretraining and fine-tuning configs fill it in."""
    config = base()
    config.total_steps = 0
    config.batch_size = 256  # global
    config.data.shuffle_window = 0  # records that are shuffled together; 0 shuffles each epoch as a whole
    config.data.synthetic = False  # one batch, kept on the device, in every step: the speed without input
    config.groups = 1  # parts of a batch with BatchNorm statistics, negatives and augmentation draws of their own
    config.remat = "none"  # none | stages | blocks: what of a backbone is computed again in the gradient, not kept
    config.accumulate = 1  # parts of a batch that are computed in turn; for losses that are means over examples
    config.average = 0.0  # momentum of a running average of the weights; 0 keeps none
    config.select = ConfigDict(dict(every=0, split="val"))  # every so many steps the primary metric is taken there
    config.select_by = "primary_metric"  # primary_metric | loss (on the split that selects)
    # After so many selections without a better value the rate falls by `factor`, and the run ends; 0 for never.
    config.plateau = ConfigDict(dict(patience=0, factor=0.5, threshold=1e-4, stop=0))
    config.judged_weights = "last"  # last | average | best (of those steps; of a pretraining, by knn) is left behind
    config.views = ConfigDict(dict(select="whole", judge="whole"))  # whole | center_crop | ten_crop, in evaluation
    # A field such as schedule.base_lr, values that are tried with shorter runs, and how long these are; "" tries none.
    config.sweep = ConfigDict(dict(field="", candidates=(), total_steps=0))
    config.online_probe = False  # a linear probe beside a pretraining, on labels that the pretraining does not see
    config.knn = ConfigDict(dict(every=0, split="val", examples=5000))  # every so many steps, on so many of each
    config.sinks = ()  # beside metrics.jsonl: tensorboard, wandb
    config.profile = ConfigDict(dict(start=0, steps=0))  # steps to trace, into workdir/profile
    config.mesh = ConfigDict(dict(replica=1))  # devices / replica hold one copy of what fsdp divides, all by default
    config.fsdp = ()  # (regex, rule) pairs: what of the state is divided over devices; see sharding.Rules
    config.augment = ConfigDict(dict(name="none"))
    config.objective = ConfigDict(dict(name="simclr"))
    config.optimizer = ConfigDict(dict(name="adamw"))
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=0))
    return config


IMAGENET_IMAGES = 1_281_167


def pretraining(
    arg: str,
    objective: Mapping[str, Any],
    *,
    natural: str,
    batch_size: int,
    epochs: int,
    warmup_epochs: int,
    optimizer: Mapping[str, Any],
    rate: float,
    rate_batch: int = 256,
    rate_power: float = 1.0,
    drops: tuple[float, ...] = (),
    end_rate: float = 0.0,
    recipes: str = "pretrain",
    augment: Mapping[str, Any] | None = None,
    smoke: Mapping[str, Any],
    backbone: str = "resnet50",
    smoke_backbone: Mapping[str, Any] | None = None,
    smoke_augment: Mapping[str, Any] | None = None,
    size: int = 224,
) -> ConfigDict:
    """A pretraining config, unlocked: the numbers of a paper, and the variants that all pretrainings have.

    Variants: `domain=ct | ct_pe | chest_xray | natural` is what the images are: it chooses the model input and the
    augmentation, `natural` with the paper's own; `smoke` is a small network and few steps for a laptop; `size=N` is the
    side of the model's input, which the records must have at least; `go_on` starts from the checkpoint that
    `--config.init_from` names, with a schedule of its own; `crossing` says that it may be of another domain, and that
    its backbone is to see the images of this one.

    Args:
      arg: the variant.
      objective: its section.
      natural: recipe for photographs.
      batch_size: of the paper.
      epochs: of the paper, in passes over ImageNet: total_steps follows.
      warmup_epochs: of a linear warm-up, likewise.
      optimizer: its section.
      rate: learning rate at a batch of `rate_batch`; it follows --config.batch_size.
      rate_batch: the batch that `rate` is of.
      rate_power: 1 for a rate in proportion to the batch, 0.5 for one in proportion to its root.
      drops: fractions of the run at each of which the rate falls to a tenth; none for a cosine.
      end_rate: that of the last step, likewise.
      recipes: which of the domains' recipes, "pretrain" or "fine_tune".
      augment: fields of the recipe, whatever the domain; such as its local views.
      smoke: fields of `objective` for a small network.
      backbone: of the paper.
      smoke_backbone: its section for a laptop, a narrow ResNet-18 by default.
      smoke_augment: fields of the recipe for it.
      size: side of the model's input in the paper.
    """
    variant = parse_arg(arg, domain="ct", smoke=False, size=0, go_on=False, crossing=False)
    domain = DOMAINS[choice("domain", variant.domain, DOMAINS)]
    steps_per_epoch = IMAGENET_IMAGES // batch_size
    config = train()
    config.name = f"{objective['name']} {variant.domain}"
    config.backbone = ConfigDict(dict(name=backbone))
    config.batch_size = batch_size
    config.total_steps = epochs * steps_per_epoch
    config.input = None if variant.go_on else domain["input"](variant.size or (64 if variant.smoke else size))
    config.adapter = crossing(variant.domain) if variant.crossing else None
    config.augment.name = natural if variant.domain == "natural" else domain[recipes]
    config.augment.update(augment or {})
    config.objective = ConfigDict(dict(objective))
    config.optimizer = ConfigDict(dict(optimizer))
    config.schedule = ConfigDict(
        dict(
            name="steps" if drops else "warmup_cosine",
            base_lr=config.get_ref("batch_size").to_float() ** rate_power * (rate / rate_batch**rate_power),
            warmup_steps=warmup_epochs * steps_per_epoch,
        )
    )
    if drops:
        config.schedule.drops = drops
    if end_rate:
        config.schedule.end_lr = config.get_ref("batch_size").to_float() * (end_rate / rate_batch)
    if variant.smoke:
        config.backbone = ConfigDict(dict(smoke_backbone or dict(name="resnet18", base_width=16)))
        config.batch_size = 16
        config.total_steps = 20
        config.objective.update(smoke)
        config.augment.update(smoke_augment or {})
        config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-4))
        config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=2))
        config.log_every = 5
        config.dataset_command = (
            "python -m data_prep.build, or python -m radnet_jax.main --config=configs/quickstart.py "
            "--workdir=quickstart, which leaves quickstart/datasets/ct and quickstart/datasets/leaves"
        )
    return config


NOTHING = "(?!)"  # a regex that no name matches


def multi_crop(local_views: int, *, local_size: float = 96 / 224) -> dict[str, Any]:
    """Fields of a recipe for SwAV's local views: each sees 5 to 14 % of an image."""
    return dict(local_views=local_views, local_size=local_size, local_crop=(0.05, 0.14))


def probe() -> ConfigDict:
    """A probe of a frozen backbone."""
    config = base()
    config.run = "probe"
    config.data.judge = ("val", "test")
    config.tags.kind = "linear_probe"
    config.tags.protocol = "linear_probe"
    config.probe = ConfigDict(
        dict(
            name="linear_probe",  # linear_probe | knn
            batch_stats="start",  # start; for a random backbone initial | reestimated
            classifier="logistic",  # of linear_probe: logistic | ridge | logistic_at_ridge; see radnet_jax.probe
            strengths=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),  # L2 penalties of "logistic", chosen on val
            neighbours=20,  # of knn
            temperature=0.07,  # of knn
            cache_dir="",  # features are kept here for other probes; "" keeps none
        )
    )
    return config


def study(name: str) -> ConfigDict:
    """An empty study: datasets, pretraining, starts, tasks, protocols and blocks are to be filled in.

    radnet_jax/study/spec.py says which fields each of them has.
    """
    config = ConfigDict()
    config.run = "study"
    config.name = name
    config.seeds = (0, 1, 2, 3)
    config.pretraining_seeds = False  # True: each seed has a pretraining of its own
    config.data_root = ""  # folder that the sources of datasets, and built datasets, are below
    config.weights_root = ""  # folder that imported weights are below
    config.datasets = ConfigDict()
    config.pretraining = ConfigDict()
    config.starts = ConfigDict()
    config.tasks = ConfigDict()
    config.protocols = ConfigDict()
    config.blocks = ConfigDict()  # parts of the matrix; without any, all starts x tasks x protocols x seeds
    config.compare = ConfigDict(
        dict(
            alpha=0.05,
            margin=0.02,  # differences within it count as none: the margin of "equivalent"
            n_resamples=10_000,
            seed=0,
        )
    )
    config.notes = ()  # sentences for the report: what the study can't show
    config.report = ConfigDict(dict(images=True))
    # How it is run; says nothing about results.
    config.list = False  # print the jobs and what they will take, and run nothing
    config.job = -1  # run this one, after what it needs; -1: all that are left
    # So many at once on this machine; 0: as many as fit, one a GPU, or one for each four cores and 4 GiB without any.
    config.at_once = 0
    config.retry = False  # try once more what has failed
    config.claims = ConfigDict(dict(heartbeat=15.0, missed=8))  # seconds; so many without one: a job is taken over
    config.cost = ConfigDict(dict(tflops=50.0))  # sustained on one machine, for costs of what has not been run yet
    return config
