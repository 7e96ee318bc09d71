"""MobileNetV3 small and large."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.norm import BatchNorm, batch_norm_of

# Kernel, channels inside, channels out, squeeze and excite, activation, stride (Howard et al. 2019, tables 1 and 2).
BLOCKS = {
    "mobilenet_v3_large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hswish", 2),
        (3, 200, 80, False, "hswish", 1),
        (3, 184, 80, False, "hswish", 1),
        (3, 184, 80, False, "hswish", 1),
        (3, 480, 112, True, "hswish", 1),
        (3, 672, 112, True, "hswish", 1),
        (5, 672, 160, True, "hswish", 2),
        (5, 960, 160, True, "hswish", 1),
        (5, 960, 160, True, "hswish", 1),
    ),
    "mobilenet_v3_small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hswish", 2),
        (5, 240, 40, True, "hswish", 1),
        (5, 240, 40, True, "hswish", 1),
        (5, 120, 48, True, "hswish", 1),
        (5, 144, 48, True, "hswish", 1),
        (5, 288, 96, True, "hswish", 2),
        (5, 576, 96, True, "hswish", 1),
        (5, 576, 96, True, "hswish", 1),
    ),
}
STEM = 16
_ACTIVATIONS: dict[str, Callable[..., Any]] = {"relu": nn.relu, "hswish": nn.hard_swish}
_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _scaled(channels: int, multiplier: float) -> int:
    """The multiple of 8 nearest to channels x multiplier, and not below nine tenths of it; at least 8."""
    wanted = channels * multiplier
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


def _conv(features: int, kernel: int, strides: int = 1, groups: int = 1, *, bias: bool = False, **kwargs: Any) -> Any:
    side = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (strides, strides),
        padding=((side, side), (side, side)),
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=_HE_NORMAL,
        conv_general_dilated=conv_general_dilated,
        **kwargs,
    )


class SqueezeExcite(nn.Module):
    """A factor for each channel, from the mean of all (section 5.3)."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        y = nn.relu(_conv(self.hidden, 1, bias=True, dtype=self.dtype, name="conv1")(y))
        return x * nn.hard_sigmoid(_conv(x.shape[-1], 1, bias=True, dtype=self.dtype, name="conv2")(y))


class Block(nn.Module):
    """An inverted residual: to more channels, a convolution of each, squeeze and excite, to few channels."""

    kernel: int
    hidden: int
    features: int
    squeeze_excite: bool
    activation: str
    strides: int
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        act = _ACTIVATIONS[self.activation]
        y = x
        if self.hidden != x.shape[-1]:
            y = act(self.norm(name="expand_norm")(self.conv(self.hidden, 1, name="expand_conv")(y)))
        y = self.conv(self.hidden, self.kernel, self.strides, self.hidden, name="depth_conv")(y)
        y = act(self.norm(name="depth_norm")(y))
        if self.squeeze_excite:
            y = SqueezeExcite(_scaled(self.hidden // 4, 1.0), self.dtype, name="squeeze_excite")(y)
        y = self.norm(name="project_norm")(self.conv(self.features, 1, name="project_conv")(y))
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y


class MobileNetV3(nn.Module):
    """MobileNetV3 (Howard et al. 2019) up to its last convolution; the wide layer after the pooling is the head's.

    Attributes:
      size: "mobilenet_v3_small" or "mobilenet_v3_large".
      multiplier: of the number of channels, which stay multiples of 8.
      norm_momentum: share of the old running statistics that is kept at each step.
      norm_epsilon: added to the variance.
      groups: parts of the batch with BatchNorm statistics of their own; see `norm.BatchNorm`.
      dtype: compute dtype.
    """

    size: str
    multiplier: float = 1.0
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    groups: int = 1
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Dimension of the features."""
        return 6 * _scaled(BLOCKS[self.size][-1][2], self.multiplier)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps, of stride 4, 8, 16 and 32], "stem": of stride 2}`.

        `image` is standardised. With `train`, BatchNorm uses the batch's statistics and updates "batch_stats".
        """
        checks.check_size("MobileNetV3", image, least=32)
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = batch_norm_of(self, train=train)
        x = conv(_scaled(STEM, self.multiplier), 3, 2, name="stem_conv")(image.astype(self.dtype))
        x = nn.hard_swish(norm(name="stem_norm")(x))
        stages, stride, stem = [], 2, x
        for i, (kernel, hidden, features, squeeze, activation, strides) in enumerate(BLOCKS[self.size], start=1):
            if strides == 2:
                if stride == 2:
                    stem = x
                else:
                    stages.append(x)
            stride *= strides
            x = Block(
                kernel=kernel,
                hidden=_scaled(hidden, self.multiplier),
                features=_scaled(features, self.multiplier),
                squeeze_excite=squeeze,
                activation=activation,
                strides=strides,
                conv=conv,
                norm=norm,
                dtype=self.dtype,
                name=f"block{i:02d}",
            )(x)
        x = nn.hard_swish(norm(name="final_norm")(conv(self.width, 1, name="final_conv")(x)))
        return {"pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32), "stages": [*stages, x], "stem": stem}


def _register(name: str) -> None:
    @MODELS.register(name)
    def mobilenet(
        *,
        multiplier: float = 1.0,
        norm_momentum: float = 0.99,
        norm_epsilon: float = 1e-3,
        groups: int = 1,
        dtype: str = "float32",
    ) -> MobileNetV3:
        if not multiplier > 0:
            raise UserError(f"{name}: multiplier", got=multiplier, expected="more than 0")
        return MobileNetV3(
            size=name,
            multiplier=multiplier,
            norm_momentum=norm_momentum,
            norm_epsilon=norm_epsilon,
            groups=groups,
            dtype=checks.compute_dtype(dtype),
        )


for _name in BLOCKS:
    _register(_name)
