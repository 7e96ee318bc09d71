"""Vision transformers, as classifiers and as encoders of some of an image's patches."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS, checks, positions
from radnet_jax.models.conv import conv_general_dilated
from radnet_jax.models.transformer import Block, layer_norm

# Width, layers, heads. Tiny and small are those of DeiT (Touvron et al. 2020, table 1).
SIZES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}
POSITIONS = ("learned", "sincos")
POOLS = ("cls", "mean")
_TOKEN = nn.initializers.normal(0.02)


def _patch_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "p p c d"]:
    """Xavier's uniform values for the linear map that the convolution is."""
    limit = math.sqrt(6 / (math.prod(shape[:3]) + shape[3]))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020) with a class token.

    `embed` and `encode` are its two halves, for objectives that show the encoder some of the patches: what goes into
    `encode` is any choice of the tokens that `embed` returns.

    An image of another size than `image_size` is seen through a resampled table of positions, and so are the smaller
    views of a multi-crop. `patch_embed` is the stem; freeze it by "backbone/patch_embed" (MoCo v3, section 4.2).

    Attributes:
      width: dimension of tokens and features.
      depth: layers; at least 4.
      heads: of the attention.
      patch: side of a patch, in pixels.
      image_size: side of the image that the table of positions is made for.
      position: "learned", or "sincos", the fixed one of MAE and MoCo v3 (no parameter; the class token has zeros).
      pool: "cls", the normalised class token, or "mean", the mean of the patches' tokens, then normalised (MAE's
        fine-tuning).
      dtype: compute dtype; the last normalisation is float32.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    position: str = "learned"
    pool: str = "cls"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.patch_embed = nn.Conv(
            self.width,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_patch_init,
            conv_general_dilated=conv_general_dilated,
        )
        self.cls_token = self.param("cls_token", _TOKEN, (1, 1, self.width))
        side = self.image_size // self.patch
        if self.position == "learned":
            self.pos_embed = self.param("pos_embed", _TOKEN, (1, 1 + side**2, self.width))
        else:
            table = positions.sincos(side, side, self.width)
            self.pos_embed = jnp.pad(jnp.asarray(table), ((1, 0), (0, 0)))[None]
        for i in range(1, self.depth + 1):
            setattr(self, f"block{i:02d}", Block(self.heads, dtype=self.dtype))
        self.final_norm = layer_norm(epsilon=1e-6)

    def grid(self, image: Float[Array, "b h w c"]) -> tuple[int, int]:
        """Returns rows and columns of patches; an image that is not made of whole patches is refused."""
        checks.check_size(f"a ViT of patch {self.patch}", image, least=self.patch, multiple=self.patch)
        return image.shape[1] // self.patch, image.shape[2] // self.patch

    def embed(self, image: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Returns the tokens of all patches, row by row, with their positions; without the class token."""
        side = self.image_size // self.patch
        table = positions.resample(self.pos_embed[0, 1:], (side, side), self.grid(image))
        x = self.patch_embed(image.astype(self.dtype))
        return x.reshape(x.shape[0], -1, self.width) + table.astype(self.dtype)

    def encode(self, tokens: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b m d"]:
        """Returns the normalised tokens after the last layer, float32: the class token, then those given (m = n + 1).

        Args:
          tokens: all or some of those of `embed`; their order does not matter, they carry their positions.
          train: changes nothing: there is no dropout and there are no statistics.
        """
        return self.final_norm(self._layers(tokens, train)[-1])

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Any]:
        """Returns `{"pooled": [b d] float32, "stages": [four maps [b h/p w/p d]]}`.

        `image` is standardised. The maps are those after a quarter, a half, three quarters and all of the layers,
        before the last normalisation; all have the stride of the patch.
        """
        layers = self._layers(self.embed(image), train)
        last = layers[-1]
        pooled = self.final_norm(last[:, 0] if self.pool == "cls" else jnp.mean(last[:, 1:], 1, dtype=jnp.float32))
        ends = [layers[math.ceil(self.depth * i / 4) - 1] for i in (1, 2, 3, 4)]
        maps = [x[:, 1:].reshape(x.shape[0], *self.grid(image), self.width) for x in ends]
        return {"pooled": pooled, "stages": maps}

    def _layers(self, tokens: Float[Array, "b n d"], train: bool) -> list[Float[Array, "b m d"]]:
        del train
        first = (self.cls_token + self.pos_embed[:, :1]).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (tokens.shape[0], 1, self.width)), tokens], axis=1)
        layers = []
        for i in range(1, self.depth + 1):
            x = getattr(self, f"block{i:02d}")(x)
            layers.append(x)
        return layers


def _register(name: str) -> None:
    default_width, default_depth, default_heads = SIZES[name]

    @MODELS.register(name)
    def vit(
        *,
        width: int = default_width,
        depth: int = default_depth,
        heads: int = default_heads,
        patch: int = 16,
        image_size: int = 224,
        position: str = "learned",
        pool: str = "cls",
        dtype: str = "float32",
    ) -> ViT:
        checks.check_positive(name, width=width, depth=depth, heads=heads, patch=patch, image_size=image_size)
        checks.check_choice("ViT position", position, POSITIONS)
        checks.check_choice("ViT pool", pool, POOLS)
        if depth < 4:
            raise UserError(f"{name}: depth", got=depth, expected="at least 4, a layer for each of the four maps")
        if width % heads or width % 4:
            raise UserError(f"{name}: width", got=width, expected=f"a multiple of heads ({heads}) and of 4")
        if image_size % patch:
            raise UserError(f"{name}: image_size", got=image_size, expected=f"a multiple of patch ({patch})")
        return ViT(
            width=width,
            depth=depth,
            heads=heads,
            patch=patch,
            image_size=image_size,
            position=position,
            pool=pool,
            dtype=checks.compute_dtype(dtype),
        )


for _name in SIZES:
    _register(_name)
