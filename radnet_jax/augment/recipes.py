"""Augmentation recipes, registered by name."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.augment.recipe import Recipe
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import Adapter


def _recipe(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Registers a recipe under its function's name; a config may override each field."""
    AUGMENTATIONS.register(function.__name__)(functools.partial(Recipe, **dataclasses.asdict(function())))
    return function


_COLOUR: dict[str, Any] = dict(jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2)
_PLAIN: dict[str, Any] = dict(
    hflip=0.5, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grayscale=0.2
)
_BYOL_COLOUR: dict[str, Any] = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grayscale=0.2)


@_recipe
def none() -> Recipe:
    """The whole image, resized: no augmentation."""
    return Recipe()


@_recipe
def simclr() -> Recipe:
    """SimCLR for photographs (Chen et al. 2020, appendix A): colour strength 1, blur in half of the views.

    Brightness is a factor, as in SimCLR v2 and torchvision; the first version added it.
    """
    return Recipe(crop=(0.08, 1.0), hflip=0.5, blur=0.5, **_COLOUR)


@_recipe
def moco_v1() -> Recipe:
    """MoCo for photographs (He et al. 2020, section 3.3); colours as Wu et al. 2018, whose order differs from ours."""
    return Recipe(crop=(0.2, 1.0), **_PLAIN)


@_recipe
def insdis() -> Recipe:
    """Instance discrimination for photographs (Wu et al. 2018): as MoCo's first version, with smaller crops."""
    return Recipe(crop=(0.08, 1.0), **_PLAIN)


@_recipe
def infomin() -> Recipe:
    """InfoMin for photographs (Tian et al. 2020; the authors' code): two of RandAugment's operations at magnitude 10.

    Departure: images lose their colour before RandAugment, theirs after it.
    """
    return dataclasses.replace(simclr(), crop=(0.2, 1.0), rand_augment=2)


@_recipe
def moco_v2() -> Recipe:
    """MoCo v2 for photographs (Chen, Fan, Girshick & He 2020, section 3; jitter of the authors' repository)."""
    return Recipe(crop=(0.2, 1.0), blur=0.5, **_PLAIN | dict(jitter=0.8, hue=0.1))


@_recipe
def byol() -> Recipe:
    """BYOL for photographs (Grill et al. 2020, appendix B, table 6); Barlow Twins takes the same.

    The two views differ: the first is always blurred, the second seldom, and only that one is solarized. The paper
    resizes with a bicubic filter, we with a linear one; brightness is a factor and contrast about the mean
    luma, as in the code of Barlow Twins and MoCo v3; BYOL's adds brightness and takes each channel's mean.
    """
    return Recipe(crop=(0.08, 1.0), hflip=0.5, blur=(1.0, 0.1), solarize=(0.0, 0.2), **_BYOL_COLOUR)


@_recipe
def moco_v3() -> Recipe:
    """MoCo v3's for photographs and a ResNet: BYOL's with larger crops (authors' repository); for a ViT, BYOL's."""
    return dataclasses.replace(byol(), crop=(0.2, 1.0))


@_recipe
def swav_multicrop() -> Recipe:
    """SwAV for photographs (Caron et al. 2020, appendix A.1): two views and six local ones of 96 / 224 their side.

    Departure: a local view is blurred in proportion to its size, by at most .86 of its pixels; theirs by up to 2.
    """
    return Recipe(crop=(0.14, 1.0), hflip=0.5, blur=0.5, local_views=6, local_crop=(0.05, 0.14), **_COLOUR)


@_recipe
def dino() -> Recipe:
    """DINO for photographs (Caron et al. 2021, section 3.1; areas of the authors' repository): eight local views.

    Departures: those of `byol` and of `swav_multicrop`.
    """
    return Recipe(
        crop=(0.4, 1.0),
        hflip=0.5,
        blur=(1.0, 0.1, 0.5),
        solarize=(0.0, 0.2, 0.0),
        local_views=8,
        local_crop=(0.05, 0.4),
        **_BYOL_COLOUR,
    )


@_recipe
def mae() -> Recipe:
    """MAE for photographs (He et al. 2021, appendix A.1): crops and mirror images. Theirs are resized bicubically."""
    return Recipe(crop=(0.2, 1.0), hflip=0.5)


@_recipe
def supervised() -> Recipe:
    """Supervised training on photographs (Szegedy et al. 2015, section 6): crops and mirror images, as ResNets had."""
    return Recipe(crop=(0.08, 1.0), hflip=0.5)


@_recipe
def ct() -> Recipe:
    """Contrastive pretraining on CT in HU; ours.

    Windows move by 3 % of their width and noise stays within 1 %: in a window of 2,000 HU, 60 and 20 HU. What tells
    tissues apart is the absolute value: with 10 % and 5 % the probe of a pretraining on phantoms fell from .74 to .54.
    """
    return Recipe(
        window_shift=0.03,
        window_scale=0.1,
        rotate=15.0,
        crop=(0.3, 1.0),
        hflip=0.5,
        blur=0.2,
        noise=0.5,
        noise_std=0.01,
    )


@_recipe
def chest_xray() -> Recipe:
    """Contrastive pretraining on X-rays; ours. No colour; brightness varies, as exposure does."""
    return Recipe(
        rotate=10.0,
        crop=(0.3, 1.0),
        hflip=0.5,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        blur=0.5,
        noise=0.5,
        noise_std=0.03,
    )


@_recipe
def finetune_natural() -> Recipe:
    """Fine-tuning on photographs; ours."""
    return Recipe(crop=(0.4, 1.0), hflip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2)


@_recipe
def finetune_ct() -> Recipe:
    """Fine-tuning on CT in HU; ours."""
    return Recipe(window_shift=0.05, window_scale=0.1, crop=(0.6, 1.0), hflip=0.5)


@_recipe
def finetune_chest_xray() -> Recipe:
    """Fine-tuning on X-rays; ours."""
    return Recipe(rotate=7.0, crop=(0.6, 1.0), hflip=0.5, jitter=0.5, brightness=0.2, contrast=0.2)


@_recipe
def finetune_segmentation() -> Recipe:
    """Segmentation of any modality; ours, with changes and strengths of nnU-Net (Isensee et al. 2021, supplement 4).

    Rotation by up to 15 degrees and zoom by up to 1.4 in every image (theirs: one in five), no simulation of low
    resolution, half of the images mirrored left and right.
    """
    return Recipe(
        rotate=15.0,
        zoom=0.4,
        hflip=0.5,
        jitter=0.3,
        brightness=0.25,
        contrast=0.25,
        gamma=0.3,
        gamma_strength=0.5,
        blur=0.2,
        blur_sigma=(0.5, 1.0),
        noise=0.15,
        noise_std=0.05,
    )


@_recipe
def radnet_published() -> Recipe:
    """Pretraining of the published RadNet study, on photographs: no blur, one draw for each view of each of 8 parts.

    The study ran on eight devices and drew once for the 512 images of each. Its BatchNorm statistics and negatives were
    by device too: `config.groups = 8`.
    """
    return Recipe(crop=(0.08, 1.0), hflip=0.5, groups=8, **_COLOUR)


@_recipe
def radnet_published_ct() -> Recipe:
    """The same on CT: saturation, hue and grayscale change nothing in three equal channels, and are left out."""
    return Recipe(crop=(0.08, 1.0), hflip=0.5, groups=8, jitter=0.8, brightness=0.8, contrast=0.8)


def _published_fine_tuning(**changes: Any) -> Recipe:
    return Recipe(
        resized_crop=0.2,
        crop=(0.08, 1.0),
        hflip=0.2,
        jitter=0.2,
        brightness=0.1,
        contrast=0.1,
        blur=0.2,
        blur_radius=1,
        **changes,
    )


@_recipe
def radnet_published_finetune_natural() -> Recipe:
    """Fine-tuning of the published RadNet study on photographs: each change in one of five batch parts."""
    return _published_fine_tuning(saturation=0.1, hue=0.2, grayscale=0.2, sharpness=0.2, groups=8)


@_recipe
def radnet_published_finetune_classification() -> Recipe:
    """Fine-tuning of the published RadNet study on CT and X-rays, without what changes nothing in gray images."""
    return _published_fine_tuning(sharpness=0.2, groups=8)


@_recipe
def radnet_published_finetune_segmentation() -> Recipe:
    """Fine-tuning of the published RadNet study for segmentation: a draw for each image."""
    return _published_fine_tuning()


def check(recipe: Recipe, adapter: Adapter) -> None:
    """Raises a UserError where a recipe asks for what the data can't have: colour, or HU windows."""
    if (recipe.saturation or recipe.hue or recipe.grayscale) and adapter.stored.channels != 3:
        raise UserError(
            "the augmentation changes colours, the data has none",
            got=f"{adapter.stored.channels} channel(s) of {adapter.stored.modality}",
            fix='choose "ct" or "chest_xray", or set saturation, hue and grayscale to 0',
        )
    if (recipe.window_shift or recipe.window_scale) and not adapter.windows:
        raise UserError(
            "the augmentation varies HU windows, the data has none",
            got=f"{adapter.stored.modality} in unit {adapter.stored.unit!r}",
            fix='choose "simclr" or "chest_xray", or set window_shift and window_scale to 0',
        )
