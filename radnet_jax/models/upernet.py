"""UPerNet (Xiao et al. 2018): a pyramid of poolings and a feature pyramid, for backbones without a map of stride 2."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from radnet_jax.models import DECODERS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.norm import batch_norm_of
from radnet_jax.models.pool import max_pool_2x2

BINS = (1, 2, 3, 6)
_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class UPerNet(nn.Module):
    """From a backbone's four maps to logits of each pixel, of the finest map's stride: 4 for every backbone.

    Section 3.1 and figure 4 of the paper, its segmentation head: the coarsest map with averages over 1, 2, 3 and 6
    bins of each side, brought to `width` channels; a top-down pyramid in which each level adds the coarser level, the
    coarser ones included; a 3x3 convolution for each level; all levels enlarged to the finest, joined, convolved, and
    the logits enlarged to the image (bilinear).

    Of a ViT, whose maps have one stride, a pyramid is made first, as Bao et al. 2022 (BEiT, appendix) do: the first map
    is enlarged by four, the second by two (transposed 2x2 convolutions), the third stays, the fourth is max-pooled.

    Attributes:
      out: logits of a pixel.
      width: channels of every level; 512 in the paper.
      groups: parts of the batch with BatchNorm statistics of their own; see `norm.BatchNorm`.
      norm_momentum: share of the old running statistics that is kept at each step.
      norm_epsilon: added to the variance.
      dtype: compute dtype; the logits are float32.
    """

    out: int
    width: int = 512
    groups: int = 1
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Mapping[str, Any], size: tuple[int, int], *, train: bool) -> Float[Array, "b h w k"]:
        """Args as of `unet.UNet`."""
        norm = batch_norm_of(self, train=train)

        def block(x: Array, kernel: int, name: str) -> Array:
            x = nn.Conv(
                self.width,
                (kernel, kernel),
                padding=((kernel // 2,) * 2,) * 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_HE_NORMAL,
                conv_general_dilated=conv_general_dilated,
                name=f"{name}_conv",
            )(x)
            return nn.relu(norm(name=f"{name}_norm")(x))

        stages = [m.astype(self.dtype) for m in maps["stages"]]
        if len({m.shape[1:3] for m in stages}) == 1:
            stages = self._pyramid(stages, norm)
        coarsest = stages[-1]
        pooled = [block(adaptive_mean(coarsest, n), 1, f"pool{n}") for n in BINS]
        x = block(jnp.concatenate([coarsest, *(_enlarge(p, coarsest.shape[1:3]) for p in pooled)], -1), 3, "pools")
        levels = [x]
        for i, stage in reversed(list(enumerate(stages[:-1], start=1))):
            x = block(stage, 1, f"lateral{i}") + _enlarge(x, stage.shape[1:3])
            levels.insert(0, block(x, 3, f"level{i}"))
        finest = stages[0].shape[1:3]
        x = block(jnp.concatenate([_enlarge(level, finest) for level in levels], -1), 3, "fused")
        logits = nn.Conv(self.out, (1, 1), dtype=self.dtype, conv_general_dilated=conv_general_dilated, name="head")(x)
        return _enlarge(logits.astype(jnp.float32), size)

    def _pyramid(self, stages: list[Array], norm: Any) -> list[Array]:
        up = functools.partial(nn.ConvTranspose, kernel_size=(2, 2), strides=(2, 2), dtype=self.dtype)
        first, second, third, last = stages
        width = first.shape[-1]
        first = nn.gelu(norm(name="up1_norm")(up(width, name="up1a")(first)))
        return [
            up(width, name="up1b")(first),
            up(width, name="up2")(second),
            third,
            max_pool_2x2(last),
        ]


def adaptive_mean(x: Float[Array, "b h w c"], bins: int) -> Float[Array, "b n n c"]:
    """Means over `bins` parts of each side; part i goes from floor(i h / n) to ceil((i + 1) h / n), as in PyTorch."""
    rows, columns = (jnp.asarray(_means(side, bins), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("nh,mw,bhwc->bnmc", rows, columns, x)


def _means(side: int, bins: int) -> np.ndarray:
    matrix = np.zeros((bins, side), np.float32)
    for i in range(bins):
        start, stop = i * side // bins, -(-(i + 1) * side // bins)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def _enlarge(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b i j c"]:
    shape = (x.shape[0], *size, x.shape[3])
    return x if x.shape == shape else jax.image.resize(x, shape, "bilinear", antialias=False)


@DECODERS.register("upernet")
def upernet(
    *,
    out: int,
    groups: int,
    width: int = 512,
    norm_momentum: float = 0.9,
    norm_epsilon: float = 1e-5,
    dtype: str = "float32",
) -> UPerNet:
    checks.check_positive("upernet", width=width)
    return UPerNet(
        out=out,
        width=width,
        groups=groups,
        norm_momentum=norm_momentum,
        norm_epsilon=norm_epsilon,
        dtype=checks.compute_dtype(dtype),
    )
