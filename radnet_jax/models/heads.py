"""The small networks on top of a backbone's features: the projector of a loss, the head of a task."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from radnet_jax.models.checks import check_positive
from radnet_jax.models.norm import BatchNorm

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_XAVIER_NORMAL = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Projector(nn.Module):
    """MLP from features to embeddings; the default is SimCLR's two-layer one (Chen et al. 2020, section 4.2, and code).

    Each hidden layer is linear, BatchNorm, activation; the last is linear and, with `last_norm`, BatchNorm without an
    offset.

    Attributes:
      layers: linear layers; SimCLR v2 uses 3.
      hidden: width of the hidden layers; 0 stands for the width of the features.
      out: dimension of the embedding.
      norm: BatchNorm after the hidden layers.
      last_norm: BatchNorm after the last layer.
      last_scale: whether that BatchNorm has a scale.
      last_bias: whether a last layer without BatchNorm has a bias.
      activation: of the hidden layers, "relu" or "gelu" (exact).
      norm_momentum: share of the old running statistics kept at each step.
      norm_epsilon: added to the variance.
      groups: parts of the batch with BatchNorm statistics of their own.
      dtype: compute dtype; the embedding is float32.
    """

    layers: int = 2
    hidden: int = 0
    out: int = 128
    norm: bool = True
    last_norm: bool = True
    last_scale: bool = True
    last_bias: bool = True
    activation: str = "relu"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    groups: int = 1
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_positive("projector", layers=self.layers, dim=self.out)
        if self.hidden:
            check_positive("projector", hidden=self.hidden)
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Float[Array, "b d"], *, train: bool) -> Float[Array, "b e"]:
        x = features.astype(self.dtype)
        for i in range(1, self.layers + 1):
            last = i == self.layers
            normed = self.last_norm if last else self.norm
            # A bias in front of a BatchNorm is cancelled by it.
            x = nn.Dense(
                self.out if last else self.hidden or features.shape[-1],
                use_bias=not normed and (self.last_bias or not last),
                kernel_init=_XAVIER_NORMAL if last else _HE_NORMAL,
                dtype=self.dtype,
                name=f"linear{i}",
            )(x)
            if normed:
                x = BatchNorm(
                    use_running_average=not train,
                    groups=self.groups,
                    momentum=self.norm_momentum,
                    epsilon=self.norm_epsilon,
                    use_bias=not last,
                    use_scale=self.last_scale or not last,
                    dtype=self.dtype,
                    name=f"norm{i}",
                )(x)
            if not last:
                x = nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=False)
        return x.astype(jnp.float32)


class JigsawHead(nn.Module):
    """From the features of an image's tiles to one embedding (Misra & van der Maaten 2020, section 3.3).

    The tiles share a linear layer or MLP, without norms; what it gives is joined in the order of the tiles, and a
    linear layer follows.

    Attributes:
      layers: linear layers that the tiles share.
      hidden: width of all but the last of them.
      out: dimension of the embedding, and of what a tile gives to it.
      tiles: of an image.
    """

    layers: int = 1
    hidden: int = 0
    out: int = 128
    tiles: int = 9

    @nn.compact
    def __call__(self, features: Float[Array, "(b*t) d"], *, train: bool) -> Float[Array, "b e"]:
        each = Projector(layers=self.layers, hidden=self.hidden, out=self.out, norm=False, last_norm=False, name="each")
        joined = each(features, train=train).reshape(-1, self.tiles * self.out)
        return nn.Dense(self.out, kernel_init=_XAVIER_NORMAL, name="joined")(joined)


class LinearHead(nn.Module):
    """One linear layer from features to logits, float32.

    Attributes:
      out: number of classes or findings.
      bias: whether there is one.
    """

    out: int
    bias: bool = True

    @nn.compact
    def __call__(self, features: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b k"]:
        del train  # as any network of a chain takes it
        # Small weights: the loss starts at chance, so that the first steps do not tear a pretrained backbone.
        init = nn.initializers.normal(0.01)
        linear = nn.Dense(self.out, use_bias=self.bias, kernel_init=init, name="linear")
        return linear(features.astype(jnp.float32))


class UnitLinear(nn.Module):
    """Cosines of an input with the rows of a matrix, float32: a linear layer of unit rows on an input of length 1.

    DINO's last layer, whose weight normalisation has a fixed norm of 1 (Caron et al. 2021, section 3.1 and code). What
    is trained is a matrix of any length: only the directions of its rows count.

    Attributes:
      out: number of rows.
    """

    out: int

    def __post_init__(self) -> None:
        check_positive("last layer", outputs=self.out)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b k"]:
        del train  # as any network of a chain takes it
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.out), jnp.float32)
        x = x.astype(jnp.float32) * _inverse_length(x, -1)
        # Scaled after the product: of a kernel that is changed before it, a divided state's compiler divides the
        # outputs and gathers the examples.
        return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST) * _inverse_length(kernel, 0)


def _inverse_length(x: Float[Array, "n m"], axis: int) -> Float[Array, "i j"]:
    return lax.rsqrt(jnp.maximum(jnp.sum(x.astype(jnp.float32) ** 2, axis=axis, keepdims=True), 1e-24))
