"""What the configs of downstream tasks share: their variants, the corrected protocol, and the published ones.

Every task config takes the same variants:

- `protocol=corrected` (default): AdamW, warm-up and cosine, the learning rate chosen on val for each start out of three
  (`config.sweep`), the best step on val judged, last and averaged weights logged beside it. `protocol=published` is
  what the published study did, with the defects that define its figures; some tasks have more, see the config.
- `scratch`: random weights, no `init_from`. `crossing`: the start may be of another modality and sees these images.
- `probe=linear | ridge | knn`: the frozen backbone instead of fine-tuning.
- `fraction=F`, of the training patients (1, 0.5, 0.1, 0.01, 0.001), or `shots=K` records of each class.
- `backbone=NAME`, `size=N` (of the input, from scratch), `smoke` for a small network and few steps.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from ml_collections import ConfigDict

from configs import common
from radnet_jax.errors import UserError

PROBES = {"linear": "linear_probe", "ridge": "linear_probe", "knn": "knn"}
# Fewer steps than a fraction's share of the whole run: small sets need their passes too.
LEAST_STEPS = 1000


def parse(arg: str, *, protocols: tuple[str, ...] = ("corrected", "published"), **more: object) -> ConfigDict:
    """Reads the variant of a task config; refuses an unknown protocol or probe, and what excludes each other."""
    variant = common.parse_arg(
        arg,
        protocol="corrected",
        probe="",
        scratch=False,
        crossing=False,
        fraction=1.0,
        shots=0,
        backbone="resnet50",
        size=0,
        smoke=False,
        **more,
    )
    common.choice("protocol", variant.protocol, protocols)
    if variant.probe:
        common.choice("probe", variant.probe, PROBES)
        if variant.protocol != "corrected":
            raise UserError("a probe has no published protocol", got=arg, fix=f"leave out protocol={variant.protocol}")
    if variant.shots and variant.fraction != 1.0:
        raise UserError("variant: either a fraction or shots", got=f"{variant.fraction:g} and {variant.shots}")
    if variant.scratch and variant.crossing:
        raise UserError("variant: scratch sees these images as they are", got=arg, fix="leave out crossing")
    return variant


def task(
    variant: ConfigDict,
    *,
    name: str,
    domain: str,
    metric: str,
    images: int,
    epochs: float,
    batch_size: int,
    command: str,
    size: int = 224,
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3),
    judged_labels: tuple[str, ...] = (),
) -> ConfigDict:
    """Returns the corrected protocol of a task, or a probe of it, unlocked.

    Args:
      variant: as `parse` reads it.
      name: of the task.
      domain: of `common.DOMAINS`.
      metric: the primary one, declared before the run.
      images: training images of the full dataset, from which steps follow; a fraction has its share, 1,000 at least.
      epochs: passes over them.
      batch_size: global.
      command: arguments of `data_prep.build` beside --source and --out.
      size: side of the model's input from scratch.
      rates: learning rates of the sweep, at this batch size.
      judged_labels: those that results are about.
    """
    side = variant.size or (64 if variant.smoke else size)
    config = common.probe() if variant.probe else common.train()
    config.name = f"{name} {variant.probe or variant.protocol}"
    config.data.judge = ("val", "test")
    config.data.judged_labels = judged_labels
    config.data.subset = ConfigDict(dict(fraction=variant.fraction, shots=variant.shots))
    config.dataset_command = f"python -m data_prep.build {command} --source=SOURCE --out=DATASET"
    config.primary_metric = metric
    config.input = common.DOMAINS[domain]["input"](side) if variant.scratch else None
    config.adapter = common.crossing(domain) if variant.crossing else None
    config.backbone = ConfigDict(dict(name=variant.backbone))
    config.tags.update(kind="finetune", task=name, protocol="fine_tune", fraction=variant.fraction)
    config.tags.start = "scratch" if variant.scratch else ""
    if variant.probe:
        return _probe(config, variant)
    whole = max(round(images * epochs / batch_size), 1)
    steps = whole if not variant.shots else min(whole, LEAST_STEPS)
    steps = max(round(whole * variant.fraction), min(whole, LEAST_STEPS)) if variant.fraction != 1.0 else steps
    config.tags.protocol = protocol_tag(variant)
    config.batch_size = batch_size
    config.total_steps = steps
    total = config.get_ref("total_steps")  # what follows from it follows --config.total_steps too
    config.augment.name = common.DOMAINS[domain]["fine_tune"]
    config.objective = ConfigDict(dict(name="classification"))
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=0.01, grad_clip=1.0))
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=rates[len(rates) // 2], warmup_steps=total // 20))
    config.sweep = ConfigDict(dict(field="schedule.base_lr", candidates=rates, total_steps=(total + 9) // 10))
    config.average = 0.999
    config.select.every = (total + 19) // 20
    config.judged_weights = "best"
    return _smoke(config) if variant.smoke else config


def protocol_tag(variant: ConfigDict) -> str:
    """Returns what the report calls the protocol; a label fraction is a tag of its own."""
    tag = "fine_tune" if variant.protocol == "corrected" else f"fine_tune_{variant.protocol}"
    return f"{tag}_{variant.shots}_shots" if variant.shots else tag


def _probe(config: ConfigDict, variant: ConfigDict) -> ConfigDict:
    protocol = {"linear": "linear_probe", "ridge": "ridge_probe", "knn": "knn"}[variant.probe]
    config.tags.kind = PROBES[variant.probe]
    config.tags.protocol = f"{protocol}_{variant.shots}_shots" if variant.shots else protocol
    config.probe.name = PROBES[variant.probe]
    config.probe.classifier = "ridge" if variant.probe == "ridge" else "logistic_at_ridge"
    if variant.shots:
        config.probe.neighbours = min(config.probe.neighbours, variant.shots)
    if variant.scratch:
        config.probe.batch_stats = "reestimated"
    if variant.smoke:
        config.backbone = ConfigDict(dict(name="resnet18", base_width=16))
        config.probe.neighbours = 1
        config.data.missing_classes = "allow"
        config.eval_batch_size = 16
    return config


def _smoke(config: ConfigDict) -> ConfigDict:
    config.backbone = ConfigDict(dict(name="resnet18", base_width=16))
    config.data.missing_classes = "allow"  # miniatures have a few images
    config.batch_size = 4
    config.eval_batch_size = 16
    config.total_steps = 8
    config.log_every = 2
    config.select.every = 4
    config.checkpoint.every = 4
    config.schedule.warmup_steps = 1
    config.sweep.update(candidates=config.sweep.candidates[:2], total_steps=4)
    return config


def no_sweep(config: ConfigDict) -> None:
    """One common learning rate, as the published studies had."""
    config.sweep = ConfigDict(dict(field="", candidates=(), total_steps=0))


def radnet(
    config: ConfigDict,
    variant: ConfigDict,
    *,
    images: int,
    epochs: int,
    batch_size: int,
    optimizer: str,
    rate: float,
    weight_decay: float,
    recipe: str,
    **objective: Any,
) -> None:
    """Turns a task's config into the published protocol of the RadNet study (Jonske et al. 2025).

    256 px, ResNet-50 with a head without bias, no warm-up, the rate times 0.97 after each epoch, the weights of the
    last step, whatever val says. Eight parts of the batch with BatchNorm statistics and augmentation draws of their own
    stand for its eight devices. LARS there had no exclusions and left tensors at zero where they were: offsets of
    BatchNorm, which start at zero, stay there (`frozen`). `protocol=published_linear` is its "linear evaluation", where
    scales and offsets of the encoder's BatchNorm layers trained too.

    Each image is scaled from its own minimum to its maximum, from scratch and where the start's input says so
    (`common.each_image_input`). Not reproduced: float16, images that can't be read replaced by others, and images
    stretched to a square without a filter (here: stored with their aspect ratio, padded, averaged over areas).
    """
    no_sweep(config)
    config.name = f"{config.tags.task} {variant.protocol}"
    config.augment = ConfigDict(dict(name=recipe))
    config.groups = 8
    config.objective = ConfigDict(dict(name="classification", head_bias=False, **objective))
    config.optimizer = ConfigDict(dict(name=optimizer, weight_decay=weight_decay, exclude=common.NOTHING))
    frozen = ((r"backbone/.*bias$",) if optimizer == "lars" else ()) + (
        (r"backbone/.*kernel$",) if variant.protocol.endswith("_linear") else ()
    )
    if frozen:
        config.optimizer.frozen = frozen
    config.schedule = ConfigDict(dict(name="exponential", base_lr=rate, decay=0.97, epochs=epochs))
    config.average = 0.0
    config.judged_weights = "last"
    if variant.scratch:
        side = variant.size or (64 if variant.smoke else 256)
        config.input = common.each_image_input(side, config.input.modality)
    if variant.smoke:
        config.groups = 2
        return
    config.batch_size = batch_size
    steps_per_epoch = max(int(images * variant.fraction) // batch_size, 1)
    config.total_steps = epochs * steps_per_epoch
    config.select.every = steps_per_epoch


def benchmark(config: ConfigDict, variant: ConfigDict, *, images: int, **objective: Any) -> None:
    """Turns a task's config into the published protocol of the transfer benchmark (Hosseinzadeh Taher et al. 2021).

    Its classification: Adam, rate 2e-4, halved after six epochs without a lower loss on val, 1,000 epochs at most, the
    run ended by the eleventh epoch without one, the weights of the lowest; batch 32; random crops of 224 px (area 8 to
    100 %), mirror images, rotation by 7 degrees; val on the central crop of 256 px, the test on ten crops.

    Not reproduced: the rotation is made before the crop and not after it; crops are of the stored image, which has kept
    its aspect ratio (padded), not of the original, and not of one stretched to a square.
    """
    no_sweep(config)
    config.name = f"{config.tags.task} {variant.protocol}"
    config.augment = ConfigDict(dict(name="supervised", rotate=7.0))
    config.objective = ConfigDict(dict(name="classification", **objective))
    config.optimizer = ConfigDict(dict(name="adamw"))  # without decay: Adam
    config.schedule = ConfigDict(dict(name="constant", base_lr=2e-4))
    config.select_by = "loss"
    config.plateau = ConfigDict(dict(patience=5, factor=0.5, threshold=1e-4, stop=10))
    config.views = ConfigDict(dict(select="center_crop", judge="ten_crop"))
    config.average = 0.0
    config.judged_weights = "best"
    if variant.scratch and not config.input.windows:
        photo = common.photo_input(1)
        config.input.update(mean=photo.mean, std=photo.std)  # ImageNet's, whatever the images
    if variant.smoke:
        return
    config.batch_size = 32
    steps_per_epoch = batches(images, variant.fraction, 32)
    config.total_steps = 1000 * steps_per_epoch
    config.select.every = steps_per_epoch


def batches(images: int, fraction: float, size: int) -> int:
    """Returns the updates of an epoch whose last batch may be smaller, as the transfer benchmark had them."""
    return max(math.ceil(int(images * fraction) / size), 1)


def by_fraction(variant: ConfigDict, table: Mapping[float, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the row of a table for the variant's label fraction; refuses one that the study did not have."""
    if variant.fraction not in table or variant.shots:
        raise UserError(
            f"protocol={variant.protocol} had no such label budget",
            got=f"{variant.shots} shots" if variant.shots else f"fraction {variant.fraction:g}",
            expected=f"fraction {', '.join(f'{f:g}' for f in table)}",
        )
    return table[variant.fraction]
