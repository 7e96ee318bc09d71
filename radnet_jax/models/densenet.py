"""DenseNet-121, the usual backbone for chest radiographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.models import MODELS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.norm import BatchNorm, batch_norm_of
from radnet_jax.models.pool import max_pool_3x3

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _conv(features: int, kernel: int, strides: int = 1, *, dtype: Any, name: str) -> nn.Conv:
    side = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (strides, strides),
        padding=((side, side), (side, side)),
        use_bias=False,
        dtype=dtype,
        kernel_init=_HE_NORMAL,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


class Layer(nn.Module):
    """The input and, from all of it, `growth` more channels: 1x1, then 3x3, each after a normalisation and ReLU."""

    growth: int
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        y = nn.relu(self.norm(name="norm1")(x))
        y = self.conv(4 * self.growth, 1, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        return jnp.concatenate([x, self.conv(self.growth, 3, name="conv2")(y)], axis=-1)


class Transition(nn.Module):
    """Half the channels of half the size; also returns the normalised map that it starts from."""

    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b i j k"]]:
        x = nn.relu(self.norm(name="norm")(x))
        y = self.conv(x.shape[-1] // 2, 1, name="conv")(x)
        return x, nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2016, table 1); compression 0.5.

    Attributes:
      depths: layers of the four blocks.
      growth: channels that each layer adds; the stem has twice as many.
      norm_momentum: share of the old running statistics that is kept at each step.
      norm_epsilon: added to the variance.
      groups: parts of the batch with BatchNorm statistics of their own; see `norm.BatchNorm`.
      dtype: compute dtype.
    """

    depths: tuple[int, ...]
    growth: int = 32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    groups: int = 1
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Dimension of the features."""
        channels = 2 * self.growth
        for layers in self.depths[:-1]:
            channels = (channels + layers * self.growth) // 2
        return channels + self.depths[-1] * self.growth

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps, of stride 4, 8, 16 and 32], "stem": of stride 2}`.

        `image` is standardised. The maps are the blocks' outputs, normalised and rectified, as the next layer sees
        them. With `train`, BatchNorm uses the batch's statistics and updates "batch_stats".
        """
        checks.check_size("DenseNet", image, least=32)
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = batch_norm_of(self, train=train)
        x = conv(2 * self.growth, 7, 2, name="stem_conv")(image.astype(self.dtype))
        x = norm(name="stem_norm")(x)
        stem = nn.relu(x)
        x = nn.relu(max_pool_3x3(x, "torch"))  # in this order: the same values, a quarter of the work
        stages = []
        for i, layers in enumerate(self.depths, start=1):
            if i > 1:
                seen, x = Transition(conv, norm, name=f"stage{i}_transition")(x)
                stages.append(seen)
            for j in range(1, layers + 1):
                x = Layer(self.growth, conv, norm, name=f"stage{i}_layer{j:02d}")(x)
        x = nn.relu(norm(name="final_norm")(x))
        return {"pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32), "stages": [*stages, x], "stem": stem}


@MODELS.register("densenet121")
def densenet121(
    *,
    depths: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
    norm_momentum: float = 0.9,
    norm_epsilon: float = 1e-5,
    groups: int = 1,
    dtype: str = "float32",
) -> DenseNet:
    checks.check_positive("densenet121", growth=growth)
    checks.check_four("densenet121", depths=depths)
    return DenseNet(
        depths=tuple(depths),
        growth=growth,
        norm_momentum=norm_momentum,
        norm_epsilon=norm_epsilon,
        groups=groups,
        dtype=checks.compute_dtype(dtype),
    )
