"""U-Net (Ronneberger et al. 2015) on any backbone with maps of several strides, with the decoders of two studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.errors import UserError
from radnet_jax.models import DECODERS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.norm import batch_norm_of

KINDS = ("radnet", "btl")
_HE_UNIFORM = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
_XAVIER_UNIFORM = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# PyTorch's own start: uniform within 1 / sqrt(fan in). What it takes for the fan in of a transposed convolution are the
# output's channels.
_TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_TORCH_TRANSPOSED = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")

Size = tuple[int, int]


class UpBlock(nn.Module):
    """Doubles a map's sides, joins it with the backbone's map of that size, and convolves."""

    features: int
    kind: str
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], skip: Array | None, size: Size) -> Float[Array, "b i j k"]:
        if self.kind == "radnet":
            x = nn.ConvTranspose(
                self.features,
                (4, 4),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_TORCH_TRANSPOSED,
                name="up",
            )(x)
            x = nn.relu(self.norm(name="up_norm")(x))
        else:
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = x[:, : size[0], : size[1]]  # of an odd side, the backbone's halves are rounded up
        if skip is not None:
            x = jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
        for i in range(1, 2 if self.kind == "radnet" else 3):
            x = nn.Conv(
                self.features,
                (3, 3),
                padding=((1, 1), (1, 1)),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_TORCH if self.kind == "radnet" else _HE_UNIFORM,
                conv_general_dilated=conv_general_dilated,
                name=f"conv{i}",
            )(x)
            x = nn.relu(self.norm(name=f"norm{i}")(x))
        return x


class UNet(nn.Module):
    """From a backbone's maps to logits of each pixel.

    A block for each halving of the backbone doubles the sides, from the coarsest map up to the image, and joins the
    backbone's map of that size where there is one (a ResNet has strides 2, 4, 8 and 16; none has stride 1).

    Attributes:
      out: logits of a pixel.
      kind: "radnet" (Jonske et al. 2025): transposed 4x4 convolution of stride 2, BatchNorm, ReLU, the backbone's map,
        3x3 convolution, BatchNorm, ReLU; logits by a 1x1 convolution. "btl" (Hosseinzadeh Taher et al. 2021, the
        decoder of segmentation_models): nearest neighbours, the backbone's map, then twice 3x3 convolution, BatchNorm,
        ReLU; logits by a 3x3 convolution.
      widths: channels of the blocks, of which a backbone with fewer halvings takes the last.
      groups: parts of the batch with BatchNorm statistics of their own; see `norm.BatchNorm`.
      norm_momentum: share of the old running statistics that is kept at each step.
      norm_epsilon: added to the variance.
      dtype: compute dtype; the logits are float32.
    """

    out: int
    kind: str = "btl"
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)
    groups: int = 1
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Mapping[str, Any], size: Size, *, train: bool) -> Float[Array, "b h w k"]:
        """Args:
        maps: what a backbone returns.
        size: of the image.
        train: BatchNorm uses the batch's statistics and updates its running ones.

        Raises:
          UserError: a backbone without maps of several strides, a size whose halves it does not follow, or more
            halvings than there are widths.
        """
        x, *steps = _levels(maps, size)
        if len(steps) > len(self.widths):
            raise UserError(
                "the U-Net has too few widths for this backbone",
                got=len(self.widths),
                expected=f"{len(steps)}, one for each halving",
            )
        norm = batch_norm_of(self, train=train)
        x = x.astype(self.dtype)
        for i, (features, (skip, side)) in enumerate(zip(self.widths[-len(steps) :], steps), start=1):
            x = UpBlock(features, self.kind, norm, self.dtype, name=f"block{i}")(x, skip, side)
        kernel = 1 if self.kind == "radnet" else 3
        fan_in = self.widths[-1]
        logits = nn.Conv(
            self.out,
            (kernel, kernel),
            padding=((kernel // 2,) * 2,) * 2,
            dtype=self.dtype,
            kernel_init=_TORCH if self.kind == "radnet" else _XAVIER_UNIFORM,
            bias_init=_within(fan_in**-0.5) if self.kind == "radnet" else nn.initializers.zeros_init(),
            conv_general_dilated=conv_general_dilated,
            name="head",
        )(x)
        return logits.astype(jnp.float32)


def _within(bound: float) -> Any:
    draw = nn.initializers.uniform(2 * bound)
    return lambda *args: draw(*args) - bound


def _levels(maps: Mapping[str, Any], size: Size) -> list[Any]:
    """Returns the coarsest map, then (map or None, size) of each doubling up to the image."""
    known = {m.shape[1:3]: m for m in [*([maps["stem"]] if "stem" in maps else []), *maps["stages"]]}
    coarsest = maps["stages"][-1]
    if len({m.shape[1:3] for m in maps["stages"]}) == 1:
        raise UserError(
            "a U-Net needs a backbone with maps of several strides",
            got="four maps of one stride, as a ViT has them",
            fix='choose the decoder "upernet", which makes a pyramid of them',
        )
    sizes = [tuple(size)]
    while sizes[-1] != coarsest.shape[1:3]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        if sizes[-1] == sizes[-2]:
            raise UserError(
                "a U-Net can't follow this backbone's halvings of the image",
                got=f"{size[0]}x{size[1]}, coarsest map {'x'.join(map(str, coarsest.shape[1:3]))}",
                fix="choose a height and width that are multiples of 32",
            )
    return [coarsest, *((known.get(s), s) for s in reversed(sizes[:-1]))]


@DECODERS.register("unet")
def unet(
    *,
    out: int,
    groups: int,
    kind: str = "btl",
    widths: Sequence[int] = (256, 128, 64, 32, 16),
    norm_momentum: float = 0.9,
    norm_epsilon: float = 1e-5,
    dtype: str = "float32",
) -> UNet:
    checks.check_choice("kind of U-Net", kind, KINDS)
    checks.check_positive("unet", **{f"widths {i}": w for i, w in enumerate(widths, start=1)})
    return UNet(
        out=out,
        kind=kind,
        widths=tuple(widths),
        groups=groups,
        norm_momentum=norm_momentum,
        norm_epsilon=norm_epsilon,
        dtype=checks.compute_dtype(dtype),
    )
