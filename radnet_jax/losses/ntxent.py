"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR, over the global batch."""

from __future__ import annotations

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EXCLUDED = -1e9  # finite, so that a row without other negatives (n = 1) still has a gradient
_BLOCK = 1024  # examples whose similarities to all rows are in memory at a time


def nt_xent(
    z: Float[Array, "n v d"], *, temperature: float, groups: int = 1, block: int = _BLOCK
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the 2n embeddings of -log softmax of the positive among the other 2n - 1.

    Chen et al. 2020, equation 1 and algorithm 1: s_ij is the cosine similarity, loss(i, j) =
    -log(exp(s_ij / t) / sum over k != i of exp(s_ik / t)), j the other view of i. At chance it is log(2n - 1).

    The similarities are formed in blocks of columns and again in the gradient, so that memory grows with the local
    batch times `block`, not with its square; that is no more arithmetic than keeping them. Float32 throughout.

    Args:
      z: embeddings of v = 2 views, any length but zero.
      temperature: softmax scale, > 0.
      groups: contiguous parts of the batch that are contrasted each within itself (as one device each, in the published
        RadNet study); divides n.
      block: examples in a block.

    Returns:
      The loss and, without gradient, `contrastive_accuracy` (share of embeddings whose positive is the nearest) and
      `loss_at_chance`.
    """
    if z.shape[1] != 2:
        raise ValueError(f"nt_xent takes two views, got {z.shape[1]} (shape {z.shape})")
    z = z.astype(jnp.float32)
    z = z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
    a, b = z[:, 0], z[:, 1]
    if groups == 1:
        log_sums, nearest = _others(a, b, temperature, block)
    else:
        parts = (x.reshape(groups, -1, x.shape[-1]) for x in (a, b))
        log_sums, nearest = jax.vmap(lambda a, b: _others(a, b, temperature, block))(*parts)
        log_sums, nearest = jax.tree.map(lambda x: x.reshape(-1), (log_sums, nearest))
    positive = jnp.sum(a * b, axis=-1) / temperature
    hits = [lax.stop_gradient(positive > x).astype(jnp.float32).mean() for x in nearest]
    metrics = {
        "contrastive_accuracy": (hits[0] + hits[1]) / 2,
        "loss_at_chance": jnp.log(2.0 * (len(z) // groups) - 1),
    }
    return (log_sums[0] + log_sums[1]).mean() / 2 - positive.mean(), metrics


Pair = tuple[Float[Array, " n"], Float[Array, " n"]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _others(a: Float[Array, "n d"], b: Float[Array, "n d"], temperature: float, block: int) -> tuple[Pair, Pair]:
    """Of each embedding of either view: log sum exp of the similarities to all others, and the largest negative one."""
    return _forward(a, b, temperature, block)[0]


def _forward(
    a: Float[Array, "n d"], b: Float[Array, "n d"], temperature: float, block: int
) -> tuple[tuple[Pair, Pair], tuple]:
    n = len(a)
    blocks = _blocks(a, b, block=block)

    def step(carry: tuple, keys: tuple) -> tuple[tuple, None]:
        column, key_a, key_b = keys
        own, absent = _masks(n, column)

        def rows(x: Array, same: Array, cross: Array, log_sum: Array, nearest: Array) -> tuple[Array, Array]:
            s_same = jnp.where(own | absent, _EXCLUDED, _similarity(x, same) / temperature)
            s_cross = jnp.where(absent, _EXCLUDED, _similarity(x, cross) / temperature)
            # log_sum starts at _EXCLUDED, which vanishes beside the positive that stands in one of the blocks
            block_sum = jnp.logaddexp(jax.nn.logsumexp(s_same, axis=1), jax.nn.logsumexp(s_cross, axis=1))
            largest = jnp.maximum(s_same.max(axis=1), jnp.where(own, _EXCLUDED, s_cross).max(axis=1))
            return jnp.logaddexp(log_sum, block_sum), jnp.maximum(nearest, largest)

        (sum_a, near_a), (sum_b, near_b) = carry
        return (rows(a, key_a, key_b, sum_a, near_a), rows(b, key_b, key_a, sum_b, near_b)), None

    start = a[:, 0] * 0 + _EXCLUDED  # from `a`, so that it is divided over the devices as the rows are
    ((sum_a, near_a), (sum_b, near_b)), _ = lax.scan(step, ((start, start), (start, start)), blocks)
    return ((sum_a, sum_b), (near_a, near_b)), (a, b, sum_a, sum_b)


def _backward(temperature: float, block: int, residuals: tuple, cotangents: tuple[Pair, Pair]) -> tuple[Array, Array]:
    """Of row i: sum over j of (g_i p_ij + g_j p_ji) z_j / t, with p_ij = exp(s_ij - log_sum_i); s is symmetric."""
    a, b, sum_a, sum_b = residuals
    g_a, g_b = cotangents[0]
    n = len(a)

    def step(carry: tuple, keys: tuple) -> tuple[tuple, None]:
        column, key_a, key_b, key_sum_a, key_sum_b, key_g_a, key_g_b = keys
        own, absent = _masks(n, column)

        def rows(x: Array, log_sum: Array, g: Array, same: tuple, cross: tuple) -> Array:
            gradient = jnp.zeros_like(x)
            for (key, key_sum, key_g), out in ((same, own | absent), (cross, absent)):
                s = _similarity(x, key) / temperature
                p = g[:, None] * jnp.exp(s - log_sum[:, None]) + key_g * jnp.exp(s - key_sum)
                gradient += _product(jnp.where(out, 0.0, p), key)
            return gradient / temperature

        of_a, of_b = (key_a, key_sum_a, key_g_a), (key_b, key_sum_b, key_g_b)
        return (carry[0] + rows(a, sum_a, g_a, of_a, of_b), carry[1] + rows(b, sum_b, g_b, of_b, of_a)), None

    blocks = _blocks(a, b, sum_a, sum_b, g_a, g_b, block=block)
    return lax.scan(step, (a * 0, b * 0), blocks)[0]


_others.defvjp(_forward, _backward)


def _blocks(*arrays: Array, block: int) -> tuple[Array, ...]:
    """Numbers of the columns and rows of each array, both in blocks; the last block is filled up."""
    n = len(arrays[0])
    block = min(block, n)
    count = -(-n // block)
    padded = (jnp.pad(x, [(0, count * block - n)] + [(0, 0)] * (x.ndim - 1)) for x in arrays)
    return jnp.arange(count)[:, None] * block + jnp.arange(block), *(
        x.reshape(count, block, *x.shape[1:]) for x in padded
    )


def _masks(n: int, column: Array) -> tuple[Array, Array]:
    """Which entries of a block of columns are a row itself, and which columns are padding."""
    return jnp.arange(n)[:, None] == column, column >= n


def _similarity(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return _product(x, y.T)


def _product(x: Float[Array, "n k"], y: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
