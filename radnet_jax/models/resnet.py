"""ResNets from 18 to 152 layers of any width, in the v1.5 form, for large and for small images."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.norm import BatchNorm, batch_norm_of
from radnet_jax.models.pool import max_pool_3x3

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEMS = ("conv7", "conv3")
PADDINGS = ("torch", "same", "fixed")
REMATS = ("none", "stages", "blocks")
_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(features: int, kernel: int, strides: int, padding: str, dtype: Any, name: str) -> nn.Conv:
    # "SAME" pads 0 before and 1 after at stride 2 and even size, torch 1 before and 0 after: the public weights of
    # torchvision need the explicit form, and so do SimCLR's ("fixed"), which pool by "SAME".
    side = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (strides, strides),
        padding="SAME" if padding == "same" else ((side, side), (side, side)),
        use_bias=False,
        dtype=dtype,
        kernel_init=_HE_NORMAL,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with the stride in the 3x3 (v1.5)."""

    features: int
    strides: int
    bottleneck: bool
    zero_init_last: bool
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        out = self.features * (4 if self.bottleneck else 1)
        kernels = ((1, 1), (3, self.strides), (1, 1)) if self.bottleneck else ((3, self.strides), (3, 1))
        y = x
        for i, (kernel, strides) in enumerate(kernels, start=1):
            last = i == len(kernels)
            y = self.conv(out if last else self.features, kernel, strides, name=f"conv{i}")(y)
            zero = last and self.zero_init_last
            scale_init = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
            y = self.norm(scale_init=scale_init, name=f"norm{i}")(y)
            if not last:
                y = nn.relu(y)
        if x.shape[-1] != out or self.strides != 1:
            x = self.conv(out, 1, self.strides, name="down_conv")(x)
            x = self.norm(name="down_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network (He et al. 2015) with the stride of a bottleneck in its 3x3 convolution ("v1.5").

    BatchNorm takes its statistics over the whole batch that it is given: under `jit` with a batch sharded over devices
    that is the global batch. Statistics and parameters are float32 whatever the compute dtype.

    Attributes:
      depth: 10 (one block a stage; not in the paper, for quick trials), 18, 34, 50, 101 or 152.
      base_width: channels of the first stage; 64 in the paper. All others follow, so that 128 and 256 are the "2x" and
        "4x" of SimCLR.
      stem: "conv7" (7x7, stride 2, then 3x3 max pooling, stride 2) or "conv3" (3x3, stride 1, no pooling: the form that
        SimCLR, appendix B.9, uses for images of 32 px; 16 times the work of "conv7" at the same size).
      zero_init_last: start each residual branch at zero (Goyal et al. 2017, section 5.1).
      padding: "torch" (symmetric; the public weights' form), "same" (Haiku's) or "fixed" (of TensorFlow's ResNets:
        convolutions symmetric, the pooling "same").
      norm_momentum: share of the old running statistics that is kept at each step (torch's momentum is 1 minus this).
      norm_epsilon: added to the variance.
      groups: parts of the batch with BatchNorm statistics of their own; see `norm.BatchNorm`.
      remat: what is computed again for the gradient instead of being kept from the forward pass: "none", the inside of
        "stages" or of "blocks".
      dtype: compute dtype.
    """

    depth: int
    base_width: int = 64
    stem: str = "conv7"
    zero_init_last: bool = False
    padding: str = "torch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    groups: int = 1
    remat: str = "none"
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Dimension of the features."""
        return self.base_width * 8 * (4 if self.depth >= 50 else 1)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps [b h w c], from fine to coarse], "stem": [b h w c]}`.

        `image` is standardised. With `train`, BatchNorm uses the batch's statistics and updates "batch_stats". "stem"
        is the map in front of the stages and of the pooling: of stride 2 with "conv7", 1 with "conv3".
        """
        conv = functools.partial(_conv, padding=self.padding, dtype=self.dtype)
        norm = batch_norm_of(self, train=train)
        x = image.astype(self.dtype)
        kernel, strides = (7, 2) if self.stem == "conv7" else (3, 1)
        x = conv(self.base_width, kernel, strides, name="stem_conv")(x)
        x = norm(name="stem_norm")(x)
        stem = nn.relu(x)
        if self.stem == "conv7":
            padding = "same" if self.padding == "fixed" else self.padding
            x = max_pool_3x3(x, padding)  # in front of the ReLU: the same values, a quarter of the work
        x = nn.relu(x)
        block = nn.remat(Block) if self.remat == "blocks" else Block

        def stage(net: ResNet, x: Array, *, number: int) -> Array:
            del net  # the module that Linen's remat hands the blocks to
            for j in range(BLOCKS[self.depth][number]):
                x = block(
                    features=self.base_width * 2**number,
                    strides=2 if number > 0 and j == 0 else 1,
                    bottleneck=self.depth >= 50,
                    zero_init_last=self.zero_init_last,
                    conv=conv,
                    norm=norm,
                    name=f"stage{number + 1}_block{j + 1}",
                )(x)
            return x

        stages = []
        for i in range(len(BLOCKS[self.depth])):
            of_number = functools.partial(stage, number=i)
            x = (nn.remat(of_number) if self.remat == "stages" else of_number)(self, x)
            stages.append(x)
        return {"pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32), "stages": stages, "stem": stem}


def _register(depth: int) -> None:
    @MODELS.register(f"resnet{depth}")
    def resnet(
        *,
        base_width: int = 64,
        stem: str = "conv7",
        zero_init_last: bool = False,
        padding: str = "torch",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        groups: int = 1,
        remat: str = "none",
        dtype: str = "float32",
    ) -> ResNet:
        for what, got, valid in (("stem", stem, STEMS), ("padding", padding, PADDINGS), ("remat", remat, REMATS)):
            if got not in valid:
                raise UserError(f"unknown ResNet {what}", got=repr(got), expected=f"one of {', '.join(valid)}")
        if base_width < 1:
            raise UserError("ResNet base_width is not positive", got=base_width, fix="give 64 for the usual network")
        if dtype not in ("float32", "bfloat16"):
            raise UserError("unknown compute dtype", got=repr(dtype), expected="float32 or bfloat16")
        return ResNet(
            depth=depth,
            base_width=base_width,
            stem=stem,
            zero_init_last=zero_init_last,
            padding=padding,
            norm_momentum=norm_momentum,
            norm_epsilon=norm_epsilon,
            groups=groups,
            remat=remat,
            dtype=jax.dtypes.canonicalize_dtype(dtype),
        )


for _depth in BLOCKS:
    _register(_depth)
