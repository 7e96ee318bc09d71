"""ConvNeXt tiny, small and base."""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.models import MODELS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.transformer import Mlp, layer_norm

# Blocks and channels of the four stages (Liu et al. 2022, section 3).
SIZES = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}
_INIT = nn.initializers.truncated_normal(0.02)
_Conv = functools.partial(nn.Conv, kernel_init=_INIT, conv_general_dilated=conv_general_dilated)


class LayerScale(nn.Module):
    """A factor for each channel that starts close to 0 (Touvron et al. 2021)."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale = self.param("scale", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * scale.astype(x.dtype)


class Block(nn.Module):
    """x + scale * mlp(norm(7x7 convolution of each channel))."""

    layer_scale: float
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        y = _Conv(
            channels, (7, 7), padding=((3, 3), (3, 3)), feature_group_count=channels, dtype=self.dtype, name="conv"
        )(x)
        y = self.norm(name="norm")(y)
        y = Mlp(4 * channels, _INIT, self.dtype, name="mlp")(y)
        return x + LayerScale(self.layer_scale, name="layer_scale")(y)


class Reduce(nn.Module):
    """Normalises, then halves height and width with a 2x2 convolution; an odd last row or column is left out."""

    channels: int
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        x = self.norm(name="norm")(x)
        return _Conv(self.channels, (2, 2), (2, 2), padding="VALID", dtype=self.dtype, name="conv")(x)


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al. 2022), without stochastic depth.

    Its convolutions of stride 4 and 2 are not padded: of a side that is no multiple of 32, the rest is not seen by
    the last stage.

    Attributes:
      depths: blocks of the four stages.
      widths: channels of the four stages.
      layer_scale: what each block's branch is multiplied by at the start.
      dtype: compute dtype; the last normalisation is float32.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float = 1e-6
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Dimension of the features."""
        return self.widths[-1]

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps, of stride 4, 8, 16 and 32]}`.

        `image` is standardised. The features are the last map's mean, normalised. `train` changes nothing.
        """
        del train
        checks.check_size("ConvNeXt", image, least=32)
        norm = functools.partial(layer_norm, epsilon=1e-6, dtype=self.dtype)
        x = image.astype(self.dtype)
        x = _Conv(self.widths[0], (4, 4), (4, 4), padding="VALID", dtype=self.dtype, name="stem_conv")(x)
        x = norm(name="stem_norm")(x)
        stages = []
        for i, (blocks, channels) in enumerate(zip(self.depths, self.widths), start=1):
            if i > 1:
                x = Reduce(channels, norm, self.dtype, name=f"stage{i}_reduce")(x)
            for j in range(1, blocks + 1):
                x = Block(self.layer_scale, norm, self.dtype, name=f"stage{i}_block{j}")(x)
            stages.append(x)
        pooled = norm(dtype=jnp.float32, name="final_norm")(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))
        return {"pooled": pooled, "stages": stages}


def _register(name: str) -> None:
    default_depths, default_widths = SIZES[name]

    @MODELS.register(name)
    def convnext(
        *,
        depths: Sequence[int] = default_depths,
        widths: Sequence[int] = default_widths,
        layer_scale: float = 1e-6,
        dtype: str = "float32",
    ) -> ConvNeXt:
        checks.check_four(name, depths=depths, widths=widths)
        return ConvNeXt(
            depths=tuple(depths), widths=tuple(widths), layer_scale=layer_scale, dtype=checks.compute_dtype(dtype)
        )


for _name in SIZES:
    _register(_name)
