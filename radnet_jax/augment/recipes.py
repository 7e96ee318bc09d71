"""Augmentation recipes: frozen, hashable values, registered by name."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import Adapter


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to a view; a probability or strength of 0 leaves the operation out.

    The operations run in this order. Colour factors are drawn from [1 - s, 1 + s] (not below 0) and applied as
    brightness, contrast, saturation, hue, always in this order (torchvision shuffles it).

    Attributes:
      window_shift: HU windows: centre moved by up to this fraction of the width.
      window_scale: HU windows: width times a factor, log-uniform in [1 / (1 + s), 1 + s].
      rotate: up to this many degrees either way.
      crop: range of the crop's area as a fraction of the image; (1, 1) resizes the whole image.
      crop_ratio: range of the crop's aspect ratio.
      hflip: probability of mirroring left and right.
      vflip: probability of mirroring top and bottom.
      jitter: probability of the colour changes.
      brightness: strength s.
      contrast: strength s.
      saturation: strength s; colour only.
      hue: up to this fraction of the circle; colour only.
      grayscale: probability; colour only.
      blur: probability.
      blur_sigma: range of the Gaussian's sigma in pixels, at 224 px; scaled with the size of the view.
      noise: probability of Gaussian noise.
      noise_std: largest standard deviation, of the [0, 1] values.
    """

    window_shift: float = 0.0
    window_scale: float = 0.0
    rotate: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    vflip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise: float = 0.0
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "crop_ratio", "blur_sigma"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # configs hand lists on
        for name in ("hflip", "vflip", "jitter", "grayscale", "blur", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation: {name} is a probability", got=getattr(self, name), expected="0 to 1")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UserError("augmentation: crop is a range of areas", got=self.crop, expected="0 < low <= high <= 1")


def _register(name: str, **fields: Any) -> None:
    AUGMENTATIONS.register(name)(functools.partial(Recipe, **fields))


_COLOUR = dict(jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2)

_register("none")
# Chen et al. 2020, appendix A, colour strength 1; crops from 0.2 of the area on, as for small images and MoCo.
_register("simclr", crop=(0.2, 1.0), hflip=0.5, blur=0.5, **_COLOUR)
# Windows move by 3 % of their width and noise stays within 1 %: in a window of 2,000 HU, 60 and 20 HU. What tells
# tissues apart is the absolute value: with 10 % and 5 % the probe of a pretraining on phantoms fell from .74 to .54.
_register(
    "ct",
    window_shift=0.03,
    window_scale=0.1,
    rotate=15.0,
    crop=(0.3, 1.0),
    hflip=0.5,
    blur=0.2,
    noise=0.5,
    noise_std=0.01,
)
_register(
    "chest_xray",
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
_register("finetune_natural", crop=(0.4, 1.0), hflip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2)
_register("finetune_ct", window_shift=0.05, window_scale=0.1, crop=(0.6, 1.0), hflip=0.5)
_register("finetune_chest_xray", rotate=7.0, crop=(0.6, 1.0), hflip=0.5, jitter=0.5, brightness=0.2, contrast=0.2)


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
