"""Swin transformers tiny, small and base: attention in windows that are shifted from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS, checks
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.transformer import Mlp, attention, layer_norm

# Channels of the first stage and blocks of the four stages (Liu et al. 2021, section 3.3).
SIZES = {
    "swin_tiny": (96, (2, 2, 6, 2)),
    "swin_small": (96, (2, 2, 18, 2)),
    "swin_base": (128, (2, 2, 18, 2)),
}
_INIT = nn.initializers.truncated_normal(0.02)
_norm = functools.partial(layer_norm, epsilon=1e-5)


class RelativePosition(nn.Module):
    """A learned number for each head and offset between two pixels of a window (section 3.2, equation 4)."""

    window: int
    heads: int

    @nn.compact
    def __call__(self) -> Float[Array, "h n n"]:
        offsets = 2 * self.window - 1
        table = self.param("bias", _INIT, (offsets**2, self.heads))
        row, column = np.divmod(np.arange(self.window**2), self.window)
        down, across = (x[:, None] - x[None, :] + self.window - 1 for x in (row, column))
        # As a product: the gradient of a table that is looked up in is a scatter.
        chosen = jax.nn.one_hot(down * offsets + across, offsets**2, dtype=table.dtype)
        return jnp.einsum("qko,oh->hqk", chosen, table, precision="highest")


def _mask(size: tuple[int, int], window: int, shifts: Sequence[int]) -> Float[np.ndarray, "w 1 n n"]:
    """-100 between pixels of a window that were no neighbours before the shift, else 0."""
    regions = []
    for side, shift in zip(size, shifts):
        i = np.arange(side)
        regions.append((i >= side - window).astype(int) + (i >= side - shift) if shift else np.zeros(side, int))
    region = 3 * regions[0][:, None] + regions[1]
    rows, columns = (side // window for side in size)
    region = region.reshape(rows, window, columns, window).swapaxes(1, 2).reshape(-1, window**2)
    return np.where(region[:, None, :, None] == region[:, None, None, :], 0, -100).astype(np.float32)


class WindowAttention(nn.Module):
    """Attention within windows; a map that windows don't divide is padded with zeros, which take part."""

    heads: int
    window: int
    shift: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, height, width, channels = x.shape
        side = self.window
        x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
        size = x.shape[1], x.shape[2]
        shifts = tuple(self.shift if n > side else 0 for n in size)  # in a single window there is nothing to shift
        x = jnp.roll(x, tuple(-s for s in shifts), axis=(1, 2))
        rows, columns = (n // side for n in size)
        # The batch stays a dimension of its own: folded into windows, it would lose its sharding.
        x = x.reshape(b, rows, side, columns, side, channels).swapaxes(2, 3).reshape(b, -1, side**2, channels)
        dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
        qkv = dense(3 * channels, name="qkv")(x).reshape(*x.shape[:3], 3, self.heads, channels // self.heads)
        bias = RelativePosition(side, self.heads, name="relative_position")()
        if any(shifts):
            bias = bias + _mask(size, side, shifts)
        x = attention(qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :], bias).reshape(x.shape)
        x = dense(channels, name="out")(x)
        x = x.reshape(b, rows, columns, side, side, channels).swapaxes(2, 3).reshape(b, *size, channels)
        return jnp.roll(x, shifts, axis=(1, 2))[:, :height, :width]


class Block(nn.Module):
    """x + window attention(norm(x)), then x + mlp(norm(x)) (equation 3)."""

    heads: int
    window: int
    shift: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = _norm(dtype=self.dtype, name="norm1")(x)
        x = x + WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attention")(y)
        y = _norm(dtype=self.dtype, name="norm2")(x)
        return x + Mlp(4 * x.shape[-1], _INIT, self.dtype, name="mlp")(y)


class Merge(nn.Module):
    """2x2 pixels become one of twice the channels; a map of odd side is padded with zeros."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        x = _norm(dtype=self.dtype, name="norm")(x)
        return nn.Dense(x.shape[-1] // 2, use_bias=False, kernel_init=_INIT, dtype=self.dtype, name="linear")(x)


class Swin(nn.Module):
    """A Swin transformer (Liu et al. 2021), without stochastic depth.

    Of a side that is no multiple of 4, the rest is left out; later maps are padded, as in torchvision. (The authors'
    code makes the window smaller where a map is smaller than it; here it is padded.)

    Attributes:
      base_width: channels of the first stage.
      depths: blocks of the four stages; every second block shifts its windows.
      window: side of a window, in pixels of the map.
      head_width: channels of a head of the attention.
      dtype: compute dtype; the last normalisation is float32.
    """

    base_width: int
    depths: tuple[int, ...]
    window: int = 7
    head_width: int = 32
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Dimension of the features."""
        return self.base_width * 8

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps, of stride 4, 8, 16 and 32]}`.

        `image` is standardised. The features are the mean of the last map, normalised; the maps themselves are not.
        `train` changes nothing.
        """
        del train
        checks.check_size("Swin", image, least=32)
        x = nn.Conv(
            self.base_width,
            (4, 4),
            (4, 4),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_INIT,
            conv_general_dilated=conv_general_dilated,
            name="stem_conv",
        )(image.astype(self.dtype))
        x = _norm(dtype=self.dtype, name="stem_norm")(x)
        stages = []
        for i, blocks in enumerate(self.depths, start=1):
            if i > 1:
                x = Merge(self.dtype, name=f"stage{i}_merge")(x)
            for j in range(1, blocks + 1):
                shift = 0 if j % 2 else self.window // 2
                heads = x.shape[-1] // self.head_width
                x = Block(heads, self.window, shift, self.dtype, name=f"stage{i}_block{j}")(x)
            stages.append(x)
        return {"pooled": jnp.mean(_norm(name="final_norm")(x), axis=(1, 2)), "stages": stages}


def _register(name: str) -> None:
    default_width, default_depths = SIZES[name]

    @MODELS.register(name)
    def swin(
        *,
        base_width: int = default_width,
        depths: Sequence[int] = default_depths,
        window: int = 7,
        head_width: int = 32,
        dtype: str = "float32",
    ) -> Swin:
        checks.check_positive(name, base_width=base_width, window=window, head_width=head_width)
        checks.check_four(name, depths=depths)
        if base_width % head_width:
            raise UserError(f"{name}: base_width", got=base_width, expected=f"a multiple of head_width ({head_width})")
        return Swin(
            base_width=base_width,
            depths=tuple(depths),
            window=window,
            head_width=head_width,
            dtype=checks.compute_dtype(dtype),
        )


for _name in SIZES:
    _register(_name)
