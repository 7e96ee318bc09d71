"""What the segmentation tasks share: the corrected protocol, those of two studies, and the variants that all have.

Variants: `protocol=corrected | published` (the published ones with their numbers, see each task); `scratch` starts from
random weights, otherwise `--config.init_from` names a checkpoint, which says what it expects to see (with `crossing` it
may be of another domain, and its backbone sees these images); `fraction=F` of the training patients; `frozen` trains
the decoder alone, on a backbone in eval mode that stays as it is; `windows` shows the network windows of its input's
size at the stored scale instead of whole images, at the scale of `size=N` in records of `stored=N` pixels a side;
`size=N` is the side of the input (from scratch; of a checkpoint it is known, and only `windows` has to be told),
`backbone=NAME`, `decoder=unet | upernet` ("": U-Net where the backbone has a map of stride 2), `smoke` a small network
and few steps for a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import common, tasks
from radnet_jax.errors import UserError

PROTOCOLS = ("corrected", "published")
# Mean and standard deviation of the [0, 1] values.
_LEVELS = {"CT": (0.35, 0.25), "XR": (0.5, 0.25), "MR": (0.15, 0.2), "US": (0.3, 0.2), "fundus": (0.4, 0.25)}
MODALITIES = (*_LEVELS, "photo")
RATES = (1e-4, 3e-4, 1e-3)


def model_input(modality: str, size: int, *, hu: bool = False, unscaled: bool = False) -> ConfigDict:
    """Three channels of 8-bit images, or of CT in one wide window; `unscaled` leaves them in [0, 1]."""
    if hu:
        return common.ct_input(size)
    if modality == "photo":
        return common.photo_input(size)
    mean, std = (0.0, 1.0) if unscaled else _LEVELS[modality]
    return common.scaled_input(modality, size, mean=(mean,) * 3, std=(std,) * 3)


def variant(arg: str, **more: object) -> ConfigDict:
    """Reads the variants that all tasks have, and `more` of one task."""
    defaults: dict[str, object] = dict(
        protocol="corrected",
        scratch=False,
        crossing=False,
        frozen=False,
        fraction=1.0,
        windows=False,
        size=0,
        stored=0,
        smoke=False,
    )
    got = common.parse_arg(arg, **defaults, backbone="resnet50", decoder="", **more)
    common.choice("protocol", got.protocol, PROTOCOLS)
    common.choice("decoder", got.decoder, ("", "unet", "upernet"))
    return got


def corrected(
    got: ConfigDict,
    *,
    task: str,
    modality: str,
    size: int,
    regions: str = "classes",
    primary_metric: str = "dice_per_volume",
    tolerance: float = 0.0,
    lesions: str = "",
    channels: int = 1,
    hu: bool = False,
    steps: int = 8000,
    batch_size: int = 32,
    command: str = "",
) -> ConfigDict:
    """The corrected protocol, unlocked: ours, the same for every task but for what its images are.

    Dice and cross entropy together, a softmax, AdamW with a warm-up and half a cosine, every example with its own draw
    of augmentation, the learning rate chosen on val for each start out of three, weights selected there by the primary
    metric. A label fraction has its share of the steps, and 1,000 at least.

    Args:
      got: the variant.
      task: name.
      modality: of the images.
      size: side of the input.
      regions: what is judged, see `evaluation.segmentation.Rules`.
      primary_metric: one of the Dice metrics.
      tolerance: of the surface Dice, in mm; 0 where no spacing is known.
      lesions: rule for single lesions.
      channels: of the stored images.
      hu: whether they are Hounsfield units.
      steps: of the run; fewer for small datasets.
      batch_size: likewise.
      command: arguments of `data_prep.build` beside --source and --out.
    """
    config = common.train()
    config.name = f"{task} {got.protocol}"
    config.tags.update(kind="finetune", task=task, fraction=got.fraction, start="scratch" if got.scratch else "")
    config.tags.protocol = "segmentation_probe" if got.frozen else "fine_tune"
    if got.protocol != "corrected":
        config.tags.protocol += f"_{got.protocol}"
    config.data.subset.fraction = got.fraction
    if command:
        config.dataset_command = f"python -m data_prep.build {command} --source=SOURCE --out=DATASET"
    if got.fraction != 1.0:
        steps = max(round(steps * got.fraction), min(steps, tasks.LEAST_STEPS))
    config.data.judge = ("val", "test")
    side = got.size or (32 if got.smoke else size)
    config.input = model_input(modality, side, hu=hu) if got.scratch else None
    if got.crossing:
        windows = common.ct_input(1).windows if hu else ()
        config.adapter = ConfigDict(dict(windows=windows, channels="repeat" if channels == 1 else "keep"))
    config.primary_metric = primary_metric
    config.masks = ConfigDict(
        dict(
            regions=regions,
            tolerance=tolerance,
            lesions=lesions,
            inference="windows" if got.windows else "resize",
            overlap=0.5,
            weighting="gaussian",
        )
    )
    config.backbone = ConfigDict(dict(name=got.backbone))
    config.augment = ConfigDict(dict(name="finetune_segmentation"))
    if got.windows:
        config.augment.update(_window_crop(side, got.stored or size))
    config.objective = ConfigDict(
        dict(name="segmentation", decoder=dict(name=_decoder(got)), loss="dice_cross_entropy", frozen=got.frozen)
    )
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=1e-2, grad_clip=1.0))
    if got.frozen:
        config.optimizer.frozen = ("^backbone/",)
    config.batch_size = batch_size
    config.eval_batch_size = 64
    config.total_steps = steps
    config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=RATES[1], warmup_steps=steps // 20))
    config.sweep = ConfigDict(dict(field="schedule.base_lr", candidates=RATES, total_steps=steps // 10))
    config.select.every = steps // 20
    config.judged_weights = "best"
    config.average = 0.99
    return config


def _decoder(got: ConfigDict) -> str:
    return got.decoder or ("upernet" if got.backbone.startswith(("vit", "swin", "convnext")) else "unet")


def _window_crop(side: int, stored: int) -> dict[str, Any]:
    """Crops of the window's size: nothing is resized."""
    if side > stored:
        raise UserError("windows are larger than the images", got=f"size={side}, stored={stored}", fix="give stored=N")
    share = (side / stored) ** 2
    return dict(crop=(share, share), crop_ratio=(1.0, 1.0))


def radnet(
    got: ConfigDict,
    config: ConfigDict,
    *,
    weights: tuple[float, ...],
    rate: float,
    weight_decay: float,
    decay: float,
    steps_per_epoch: int,
    augment: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """The published RadNet study (Jonske et al. 2025), on top of a corrected config: 50 epochs at a batch of 128.

    What defines its figures is kept: BatchNorm statistics and the weighted mean of the loss by eighths of the batch
    (one device each), weight decay on every parameter, the weights of the last step. `frozen` is its "linear
    evaluation": convolutions stay, but the scales and offsets of the backbone's BatchNorm are trained, in train mode.
    From scratch each slice is scaled from its own minimum to its maximum. Not kept: float16, images that are replaced
    by others where they can't be read, and images stretched to a square without a filter.
    """
    if _decoder(got) != "unet":
        raise UserError("the RadNet study had U-Nets on ResNets", got=f"{_decoder(got)} on {got.backbone}")
    epochs, steps_per_epoch = 50, max(int(steps_per_epoch * got.fraction), 1)
    config.batch_size, config.total_steps = 128, epochs * steps_per_epoch
    if got.scratch:
        config.input = common.each_image_input(config.input.size[0], config.input.modality)
    config.groups = 8
    config.augment = ConfigDict(
        dict(name="radnet_published_finetune_segmentation", groups=0) | dict(augment or {})  # draws are by image
    )
    config.objective = ConfigDict(
        dict(name="segmentation", decoder=dict(name="unet", kind="radnet"), loss="cross_entropy", class_weights=weights)
    )
    config.optimizer = ConfigDict(dict(name="adamw", weight_decay=weight_decay, exclude=common.NOTHING))
    if got.frozen:
        config.optimizer.frozen = (r"^backbone/.*kernel$",)
    config.schedule = ConfigDict(dict(name="exponential", base_lr=rate, decay=decay, epochs=epochs))
    tasks.no_sweep(config)
    config.select.every, config.judged_weights, config.average = 0, "last", 0.0
    return config


def btl(
    got: ConfigDict,
    config: ConfigDict,
    *,
    modality: str,
    images: int,
    version: int,
    size: int = 224,
    batch_size: int = 32,
    loss: str = "soft_dice",
    augmented: bool = True,
    imagenet: bool | None = None,
) -> ConfigDict:
    """The published transfer benchmark (Hosseinzadeh Taher et al.), on top of a corrected config.

    Version 1 (2021): Adam at 1e-3, a cosine to 0 over 200 epochs; inputs in [0, 1]. Version 2 (2025): AdamW at 2e-4
    with a decay of 0.01 on every parameter, 20 epochs of a linear warm-up, then a cosine to epoch 500 (its epoch at a
    rate of 0 is left out); inputs standardised as ImageNet's. Dice of a sigmoid, summed over the batch; U-Net with
    `btl` blocks, for ConvNeXt and Swin a UPerNet. Weights are those of the best epoch on val, and a run ends with the
    21st (51st) epoch without a better one.

    Not kept: its val was augmented at random, and what counted there was the loss, here the metric; distortions of 3 in
    10 images (elastic, grid, optical); nearest-neighbour resizing of the images to a square of 224 px; drawn
    exclusively, brightness or gamma. Its rates changed by epoch, one epoch late in version 1, here they do by step. Its
    UPerNet shared one smoothing convolution, had no cumulative sums from level to level, and saw Swin from stride 8.

    Args:
      got: the variant.
      config: the corrected one.
      modality: of the images.
      images: in train, from which the steps follow.
      version: 1 or 2.
      size: side of the input.
      batch_size: of the study.
      loss: of the task.
      augmented: whether images are augmented during training.
      imagenet: whether a network from scratch sees images standardised as ImageNet's, else in [0, 1]; by default
        version 2 does.
    """
    epochs = {1: 200, 2: 500}[version]
    per_epoch = tasks.batches(images, got.fraction, batch_size)
    side = got.size or (32 if got.smoke else size)
    if got.scratch:
        config.input = model_input(modality, side, unscaled=True)
        if version == 2 if imagenet is None else imagenet:
            photo = common.photo_input(side)
            config.input.update(mean=photo.mean, std=photo.std)
    config.batch_size, config.total_steps = batch_size, epochs * per_epoch
    # Odds of 0.3 for brightness and contrast or gamma, 0.25 for a crop of a side of 156 to 224 of 224 pixels.
    recipe: dict[str, Any] = dict(name="none")
    if augmented:
        recipe |= dict(jitter=0.15, brightness=0.2, contrast=0.2, gamma=0.15, gamma_strength=0.2)
        recipe |= dict(resized_crop=0.25, crop=((156 / 224) ** 2, 1.0), crop_ratio=(1.0, 1.0))
    config.augment = ConfigDict(recipe)
    config.objective = ConfigDict(
        dict(
            name="segmentation",
            decoder=dict(name="unet", kind="btl") if _decoder(got) == "unet" else dict(name="upernet"),
            loss=loss,
            activation="sigmoid",
            frozen=got.frozen,
        )
    )
    if version == 1:
        config.optimizer = ConfigDict(dict(name="adamw", weight_decay=0.0))
        config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=0))
    else:
        config.optimizer = ConfigDict(dict(name="adamw", weight_decay=0.01, exclude=common.NOTHING))
        config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=2e-4, warmup_steps=20 * per_epoch))
    if got.frozen:
        config.optimizer.frozen = ("^backbone/",)
    tasks.no_sweep(config)
    config.select.every, config.judged_weights, config.average = per_epoch, "best", 0.0
    config.plateau.stop = {1: 20, 2: 50}[version]
    return config


def finish(got: ConfigDict, config: ConfigDict) -> ConfigDict:
    """Makes the config small where it is asked to, and locks it."""
    if got.smoke:
        if got.backbone == "resnet50":
            config.backbone = ConfigDict(dict(name="resnet18", base_width=16))
        config.objective.decoder.update(
            {"width": 8} if config.objective.decoder.name == "upernet" else {"widths": (16, 12, 8, 8, 4)}
        )
        tasks.no_sweep(config)
        config.data.missing_classes = "allow"  # miniatures have a few images
        config.batch_size, config.eval_batch_size, config.groups = 2, 8, 1
        config.total_steps, config.log_every = 10, 5
        config.schedule = ConfigDict(dict(name="warmup_cosine", base_lr=1e-3, warmup_steps=1))
        if config.select.every:
            config.select.every = 5
        config.checkpoint = ConfigDict(dict(every=1000, keep=1))
    return config.lock()
