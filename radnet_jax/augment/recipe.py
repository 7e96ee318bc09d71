"""What is done to a view, as a frozen, hashable value. `recipes` has the named ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from radnet_jax.errors import UserError

Chance = float | tuple[float, ...]

_CHANCES = (
    *("affine", "resized_crop", "hflip", "vflip", "jitter", "grayscale", "gamma", "sharpness", "blur", "solarize"),
    *("noise", "rician", "erase"),
)
_RANGES = ("crop", "crop_ratio", "blur_sigma", "erase_area", "erase_ratio", "local_crop", "tile_crop")
_STRENGTHS = (
    *("window_shift", "window_scale", "rotate", "zoom", "shear", "translate", "brightness", "contrast", "saturation"),
    *("hue", "gamma_strength", "sharpness_factor", "noise_std", "rician_std", "rand_magnitude", "rand_spread"),
)
_COUNTS = ("local_views", "groups", "blur_radius", "rand_augment")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to a view; a probability or strength of 0 leaves the operation out.

    The operations run in this order. A probability may differ by view, (first, second, ...): the last one counts for
    all further views, and local views come after the global ones.

    Attributes:
      window_shift: HU windows: centre moved by up to this fraction of the width.
      window_scale: HU windows: width times a factor, log-uniform in [1 / (1 + s), 1 + s].
      affine: probability of the four changes that follow, together.
      rotate: up to this many degrees either way.
      zoom: magnified by a factor, log-uniform in [1 / (1 + s), 1 + s].
      shear: rows moved by up to this many times their distance from the centre.
      translate: moved by up to this fraction of the size, down or up and right or left.
      resized_crop: probability of a crop; else the whole image is resized.
      crop: range of the crop's area as a fraction of the image; (1, 1) resizes the whole image.
      crop_ratio: range of the crop's aspect ratio.
      hflip: probability of mirroring left and right.
      vflip: probability of mirroring top and bottom.
      jitter: probability of the colour changes, in an order that is drawn. Factors are drawn from [1 - s, 1 + s], not
        below 0.
      brightness: strength s.
      contrast: strength s.
      saturation: strength s; colour only.
      hue: up to this fraction of the circle; colour only.
      grayscale: probability; colour only.
      gamma: probability of raising the values to a power.
      gamma_strength: the power is log-uniform in [1 / (1 + s), 1 + s].
      sharpness: probability of sharpening.
      sharpness_factor: 1 is the original, 0 smoothed by a 3 x 3 filter, 2 as much the other way.
      blur: probability.
      blur_sigma: range of the Gaussian's sigma in pixels, at 224 px; scaled with the size of the view.
      blur_radius: taps on each side; 0 takes as many as three sigma.
      rand_augment: how many operations of RandAugment are drawn, with replacement, each then done with probability
        one half; 0 for none. See `rand_augment`.
      rand_magnitude: mean of their magnitude, up to 10.
      rand_spread: its standard deviation; what is drawn is cut to 0 to 10.
      solarize: probability of inverting the values of at least one half.
      noise: probability of Gaussian noise.
      noise_std: largest standard deviation, of the [0, 1] values.
      rician: probability of Rician noise.
      rician_std: largest standard deviation, likewise.
      erase: probability of writing the mean over a box.
      erase_area: range of the box's area as a fraction of the view.
      erase_ratio: range of its aspect ratio.
      local_views: small views of each image beside the others, for objectives that ask for them.
      local_size: side of a local view as a fraction of the others'.
      local_crop: as `crop`, of local views.
      tile_crop: as `crop`, of what is cut into tiles, for objectives that ask for them.
      groups: parts of the batch that share their draws; 0 gives each example its own.
      dtype: "float32" or "bfloat16", of the arithmetic's results and the views.
    """

    window_shift: float = 0.0
    window_scale: float = 0.0
    affine: Chance = 1.0
    rotate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    translate: float = 0.0
    resized_crop: Chance = 1.0
    crop: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: Chance = 0.0
    vflip: Chance = 0.0
    jitter: Chance = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: Chance = 0.0
    gamma: Chance = 0.0
    gamma_strength: float = 0.0
    sharpness: Chance = 0.0
    sharpness_factor: float = 2.0
    blur: Chance = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_radius: int = 0
    rand_augment: int = 0
    rand_magnitude: float = 10.0
    rand_spread: float = 0.5
    solarize: Chance = 0.0
    noise: Chance = 0.0
    noise_std: float = 0.0
    rician: Chance = 0.0
    rician_std: float = 0.0
    erase: Chance = 0.0
    erase_area: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    local_views: int = 0
    local_size: float = 96 / 224
    local_crop: tuple[float, float] = (0.05, 0.14)
    tile_crop: tuple[float, float] = (0.6, 1.0)
    groups: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in (*_CHANCES, *_RANGES):
            if isinstance(value := getattr(self, name), list | tuple):
                object.__setattr__(self, name, tuple(value))  # configs hand lists on
        for name in _CHANCES:
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                self._expect(name, _is_number(value) and 0 <= value <= 1, "a probability, 0 to 1")
            self._expect(name, values != (), "a probability, or one for each view")
        for name in _RANGES:
            value = getattr(self, name)
            pair = isinstance(value, tuple) and len(value) == 2 and all(_is_number(v) for v in value)
            self._expect(name, pair and 0 < value[0] <= value[1], "0 < low <= high")
        for name in ("crop", "erase_area", "local_crop", "tile_crop"):
            self._expect(name, getattr(self, name)[1] <= 1, "fractions of the area, up to 1")
        for name in _STRENGTHS:
            value = getattr(self, name)
            self._expect(name, _is_number(value) and value >= 0, "0 or more")
        for name in _COUNTS:
            value = getattr(self, name)
            self._expect(name, isinstance(value, int) and value >= 0, "a whole number")
        self._expect("rand_magnitude", self.rand_magnitude <= 10, "at most 10")
        self._expect("hue", self.hue <= 0.5, "at most 0.5, half a circle")
        self._expect("local_size", _is_number(self.local_size) and 0 < self.local_size <= 1, "a fraction, up to 1")
        self._expect("dtype", self.dtype in ("float32", "bfloat16"), "float32 or bfloat16")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"augmentation: {name}", got=repr(getattr(self, name)), expected=expected)

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour changes of `jitter` that have a strength."""
        return tuple(name for name in ("brightness", "contrast", "saturation", "hue") if getattr(self, name))

    @property
    def moves(self) -> bool:
        """Whether there is an affine map."""
        return bool(self.rotate or self.zoom or self.shear or self.translate)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
