"""The preprocessing contract: what a number in an image means, from the stored record to the model's input.

`StoredPixels` stands in each dataset, `ModelInput` in each checkpoint and exported weight; an `Adapter` is the declared
way from one to the other and is recorded in the run. Imports no jax: the functions use array operators only, so that
NumPy arrays on the host and traced JAX arrays on the device go through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import numbers
from typing import Any

from jaxtyping import Float, Num

from radnet_jax.errors import UserError

MODALITIES = ("CT", "XR", "MR", "US", "fundus", "photo")
UNITS = ("HU", "none")
DTYPES = ("int16", "uint8", "uint16")
RESIZE_RULES = ("pad_area", "stretch_area", "none")  # pad_area keeps the aspect ratio
CHANNEL_RULES = ("keep", "repeat", "mean")

Window = tuple[float, float]  # (centre, width) in the stored unit
UNKNOWN_MASK = 255  # value of a mask where nothing is known: nobody has labelled it, or the image has no pixel there
IMAGE = "image"  # a value range: from the lowest to the highest value of each image by itself


def _check(what: str, got: Any, valid: tuple[str, ...]) -> None:
    if got not in valid:
        raise UserError(f"unknown {what}", got=repr(got), expected=f"one of {', '.join(valid)}")


@dataclasses.dataclass(frozen=True)
class StoredPixels:
    """What the pixels of a dataset's records are.

    Attributes:
      modality: one of MODALITIES.
      unit: "HU" (values are Hounsfield units) or "none".
      value_range: lowest and highest value that can occur, in the unit; values were clipped to it when stored.
      size: height and width in pixels.
      channels: 1 or 3.
      resize: how the source was brought to `size`, one of RESIZE_RULES.
      dtype: storage type, one of DTYPES.
    """

    modality: str
    unit: str
    value_range: tuple[float, float]
    size: tuple[int, int]
    channels: int
    resize: str
    dtype: str

    def __post_init__(self) -> None:
        _check("modality", self.modality, MODALITIES)
        _check("unit", self.unit, UNITS)
        _check("dtype", self.dtype, DTYPES)
        _check("resize rule", self.resize, RESIZE_RULES)
        if not self.value_range[0] < self.value_range[1]:
            raise UserError("value_range is empty", got=self.value_range, expected="low < high")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredPixels:
        return cls(**_tuples(data))


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """What a backbone was trained to see, after scaling to [0, 1] and standardising by mean and std.

    Attributes:
      modality: one of MODALITIES.
      channels: channels of the model's input.
      size: height and width in pixels.
      windows: HU windows (centre, width) scaled to [0, 1], one channel each; empty where `value_range` is scaled.
      value_range: stored values that map to 0 and 1 where there is no window; None with windows; "image" for the lowest
        and highest value of each image over all channels, which loses what absolute values say (HU).
      mean: by channel, of the [0, 1] values.
      std: by channel, of the [0, 1] values.
    """

    modality: str
    channels: int
    size: tuple[int, int]
    windows: tuple[Window, ...]
    value_range: tuple[float, float] | str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _check("modality", self.modality, MODALITIES)
        if bool(self.windows) == (self.value_range is not None):
            raise UserError(
                "a model input is scaled either by windows or by a value range",
                got=f"windows={self.windows}, value_range={self.value_range}",
            )
        _check_windows(self.windows)
        if isinstance(self.value_range, str):
            _check("value range", self.value_range, (IMAGE,))
        if len(self.size) != 2 or not all(isinstance(x, numbers.Integral) and x > 0 for x in self.size):
            raise UserError("model input size", got=self.size, expected="height and width in pixels")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise UserError(
                    f"model input {name} does not fit the channels",
                    got=getattr(self, name),
                    expected=f"{self.channels} values",
                )
        if not all(value > 0 for value in self.std):
            raise UserError("model input std", got=self.std, expected="numbers above 0")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelInput:
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(data, Mapping) or set(data) != set(fields):
            got = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise UserError("a model input is not whole", got=got, expected=", ".join(fields))
        return cls(**_tuples(data))


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The way from stored pixels to a model's input; made by `make_adapter`, recorded in the run.

    Attributes:
      windows: windows applied to the stored values, or empty.
      value_range: stored values that map to 0 and 1 where there is no window; None with windows; or "image".
      channels: "keep", "repeat" (one channel to all) or "mean" (colour to one).
      crossing: whether the modality changes, which is legal only where it was declared.
    """

    stored: StoredPixels
    model_input: ModelInput
    windows: tuple[Window, ...]
    value_range: tuple[float, float] | str | None
    channels: str
    crossing: bool

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _tuples(data: Any) -> Any:
    """Lists of a JSON document as tuples, so that a contract read back equals the one written and can be hashed."""
    if isinstance(data, Mapping):
        return {k: _tuples(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return tuple(_tuples(v) for v in data)
    return data


def make_adapter(stored: StoredPixels, model_input: ModelInput, declared: Mapping[str, Any] | None = None) -> Adapter:
    """Returns the adapter from `stored` to `model_input`.

    Args:
      stored: the dataset's side.
      model_input: the model's side.
      declared: None for data of the model's own modality; else `{"windows": ..., "channels": ...}`, the declared
        crossing (for example CT to a photograph-trained start: a window, repeated to three channels).

    Raises:
      UserError: for a crossing that is not declared, or that can't be done; both sides are named.
    """
    sides = (
        f"stored {stored.modality} ({stored.unit}, {stored.channels} channel(s)) "
        f"-> model {model_input.modality} ({model_input.channels} channel(s))"
    )
    crossing = stored.modality != model_input.modality
    if crossing and declared is None:
        raise UserError(
            f"preprocessing contract: undeclared crossing, {sides}",
            fix="declare it (config.adapter with windows and channels), or use a dataset of the model's modality",
        )
    if declared is not None and set(declared) != {"windows", "channels"}:
        raise UserError(
            "config.adapter has two fields, windows and channels",
            got=", ".join(sorted(declared)) or "none",
            expected="windows=((centre, width), ...) for HU and () for others; channels='keep', 'repeat' or 'mean'",
        )
    windows = model_input.windows if declared is None else tuple(_tuples(declared["windows"]))
    _check_windows(windows)
    by_image = not windows and model_input.value_range == IMAGE
    if stored.unit == "HU" and not windows and not by_image:
        raise UserError(
            f"preprocessing contract: HU values need a window, {sides}",
            fix="give windows=((centre, width), ...) in the model input or the declared adapter",
        )
    if stored.unit != "HU" and windows:
        raise UserError(f"preprocessing contract: a HU window needs HU values, {sides}", got=f"windows={windows}")
    value_range = None if windows else IMAGE if by_image else stored.value_range
    if not crossing and not windows and not by_image and model_input.value_range != stored.value_range:
        raise UserError(
            f"preprocessing contract: another value range, {sides}",
            got=stored.value_range,
            expected=model_input.value_range,
            fix="rebuild the dataset, or use the model input of a checkpoint trained on it",
        )
    produced = len(windows) if windows else stored.channels
    rule = declared["channels"] if declared is not None else _channel_rule(produced, model_input.channels)
    _check("channel rule", rule, CHANNEL_RULES)
    out = {"keep": produced, "repeat": model_input.channels if produced == 1 else -1, "mean": 1}[rule]
    if out != model_input.channels or (len(windows) > 1 and stored.channels != 1):
        raise UserError(
            f"preprocessing contract: channels do not fit, {sides}",
            got=f"{produced} channel(s) after windows, rule {rule!r}",
            expected=f"{model_input.channels} channel(s)",
        )
    if min(stored.size) < min(model_input.size):
        raise UserError(
            f"preprocessing contract: records are smaller than the model's input, {sides}",
            got=stored.size,
            expected=f"at least {model_input.size}",
            fix="rebuild the dataset with a larger --size, or lower the input size",
        )
    return Adapter(stored, model_input, windows, value_range, rule, crossing)


def _check_windows(windows: tuple[Any, ...]) -> None:
    for window in windows:
        pair = isinstance(window, tuple) and len(window) == 2 and all(isinstance(x, numbers.Real) for x in window)
        pair = pair and all(math.isfinite(x) for x in window)
        if not pair or not window[1] > 0:
            raise UserError("not a window", got=repr(window), expected="(centre, width) in HU, the width above 0")


def _channel_rule(produced: int, wanted: int) -> str:
    if produced == wanted:
        return "keep"
    return "repeat" if produced == 1 else "mean"


def to_unit(
    image: Num[Any, "*b h w c"],
    adapter: Adapter,
    *,
    shift: Any = 0.0,
    scale: Any = 1.0,
) -> Float[Any, "*b h w u"]:
    """Scales stored values to [0, 1] by the adapter's windows or value range; float32.

    Args:
      image: stored pixels (int16 HU, uint8, ...), channels last.
      adapter: the contract.
      shift: added to each window's centre, as a fraction of its width; broadcast against `image` (window jitter).
      scale: factor on each window's width, likewise.

    Returns:
      One channel for each window, or the stored channels where the value range is scaled. Clipped to [0, 1].
    """
    x = image.astype("float32")
    if adapter.value_range == IMAGE:
        low, high = x.min(axis=(-3, -2, -1), keepdims=True), x.max(axis=(-3, -2, -1), keepdims=True)
        return (x - low) / (high - low).clip(1e-6)  # a constant image is black
    if not adapter.windows:
        assert adapter.value_range is not None
        assert not isinstance(adapter.value_range, str)
        low, high = adapter.value_range
        windows: tuple[Window, ...] = (((low + high) / 2, high - low),)
    else:
        windows = adapter.windows
    channels = []
    for centre, width in windows:
        low = centre + shift * width - scale * width / 2
        channels.append(((x - low) / (scale * width)).clip(0.0, 1.0))
    return channels[0] if len(channels) == 1 else _concatenate(channels)


def _concatenate(channels: list[Any]) -> Any:
    namespace = channels[0].__array_namespace__()
    return namespace.concat(channels, axis=-1)


def standardise(unit: Float[Any, "*b h w u"], adapter: Adapter) -> Float[Any, "*b h w c"]:
    """Brings [0, 1] values to the model's channels and standardises them by its mean and std."""
    x = unit
    namespace = x.__array_namespace__()
    if adapter.channels == "mean":
        x = x.mean(axis=-1, keepdims=True)
    mean = namespace.asarray(adapter.model_input.mean, dtype=x.dtype)
    std = namespace.asarray(adapter.model_input.std, dtype=x.dtype)
    return (x - mean) / std  # a single channel broadcasts to all: the "repeat" rule
