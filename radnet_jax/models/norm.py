"""BatchNorm, over the whole batch or over each of some parts of it."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

Initializer = Callable[..., Array]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, algorithm 1).

    Parameters ("scale", "bias") and running statistics ("mean", "var" in "batch_stats") are named as those of
    `nn.BatchNorm`, and with one group the values are its too. Statistics are float32 whatever the compute dtype, of the
    whole batch under `jit`, however it is divided over devices. The running variance is the biased one, unlike torch's.

    With `groups`, each contiguous part of the batch is normalised by its own statistics, as by one device each of a
    torch run without synchronisation; nothing passes between devices where their number divides `groups`. The running
    statistics are then those of the first group: such a run saves what its device 0 holds. In eval mode groups change
    nothing.

    Attributes:
      use_running_average: eval mode.
      groups: divides the number of rows.
      momentum: share of the old running statistics that is kept at each step (torch's momentum is 1 minus this).
      epsilon: added to the variance.
      use_bias: has an offset.
      use_scale: has a factor.
      scale_init: of the factor.
      dtype: of the result.
    """

    use_running_average: bool
    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, jnp.float32) if self.use_scale else 1.0
        shape, groups = x.shape, 1 if self.use_running_average else self.groups
        if groups > 1:
            x = x.reshape(groups, -1, *shape[1:])
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            # E[x^2] - E[x]^2 needs one pass over x.
            axes = tuple(range(min(groups - 1, 1), x.ndim - 1))
            x32 = x.astype(jnp.float32)
            mean, square = x32.mean(axes, keepdims=True), (x32 * x32).mean(axes, keepdims=True)
            var = jnp.maximum(square - mean * mean, 0.0)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * _first(new)
        y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32)
        return y.astype(self.dtype).reshape(shape)


def batch_norm_of(network: nn.Module, *, train: bool) -> Callable[..., BatchNorm]:
    """Returns BatchNorm as a network's own fields say: `groups`, `norm_momentum`, `norm_epsilon` and `dtype`."""
    return functools.partial(
        BatchNorm,
        use_running_average=not train,
        groups=network.groups,
        momentum=network.norm_momentum,
        epsilon=network.norm_epsilon,
        dtype=network.dtype,
    )


def _first(statistics: Float[Array, "g *ones c"]) -> Float[Array, " c"]:
    """Returns the first group's statistics."""
    flat = statistics.reshape(-1, statistics.shape[-1])
    if len(flat) == 1:
        return flat[0]
    # As a sum the compiler makes it one small all-reduce; of a slice it makes a gather of all groups.
    own = jnp.arange(len(flat))[:, None] == 0
    return jnp.where(own, flat, 0.0).sum(0)
