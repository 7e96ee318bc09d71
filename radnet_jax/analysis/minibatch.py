"""CKA of flattened maps, and with Gaussian kernels, over any number of images: the mini-batch estimator, on devices.

Nguyen et al. (2021, equation 4): HSIC_1 of Song et al. (2012, equation 5) of each batch, which is unbiased whatever its
size, averaged over batches (a smaller last one weighs less); the ratio of the averages converges to CKA with the number
of images. What is kept is a batch's Gram matrices, of a layer that has 800,000 values an image as of one that has 64.

HSIC_1 is computed from U-centred Gram matrices (Szekely and Rizzo 2014, equation 3.2 and proposition 1), which is the
same: n (n - 3) HSIC_1 = sum of U(K) x U(L). Their entries are small, and float32 loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from radnet_jax.analysis.similarity import median_bandwidth, ratio, squared_distances

KINDS = ("maps", "rbf")  # linear of flattened maps; Gaussian of pooled features
LEAST = 4  # images that HSIC_1 needs
_CONSTANT = 1e-10  # variance by mean square: below it, only float32's rounding is left


class MinibatchCka:
    """The sums of pairs of networks, each layer of one with the same layer of the other.

    Args:
      pairs: places of the networks in what `add` is given.

    The Gaussian kernels' bandwidth is, for each network and layer, the median squared distance of the images of the
    first batch that are not equal: one of each batch's own would make another kernel of each.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]):
        self._pairs = np.asarray(pairs, np.int32)
        self._scales: tuple[np.ndarray, np.ndarray] | None = None
        self._parts: list[tuple[Array, Array, Array]] = []

    def add(
        self,
        features: Sequence[Sequence[Float[Array, "b d"]]],
        grams: Sequence[Sequence[Float[Array, "b b"]]],
        valid: Float[Array, " b"],
    ) -> None:
        """Adds a batch; one with fewer than 4 valid images is left out, for HSIC_1 is not defined there.

        Args:
          features: of each network and layer, pooled.
          grams: of each network and layer, `map_gram` of its flattened maps.
          valid: 0 for images that don't count.
        """
        kept = np.asarray(valid) > 0
        if kept.sum() < LEAST:
            return
        if self._scales is None:
            widths = [[median_bandwidth(squared_distances(np.asarray(x)[kept])) for x in net] for net in features]
            sizes = [[np.trace(np.asarray(g)) / kept.sum() for g in net] for net in grams]
            self._scales = (np.asarray(widths, np.float32), np.asarray(sizes, np.float32))
        centred = [
            _centred(tuple(x), tuple(g), valid, widths, sizes)
            for x, g, widths, sizes in zip(features, grams, *self._scales)
        ]
        both = _products(tuple(centred), tuple(map(tuple, self._pairs.tolist())))
        own = _products(tuple(centred), tuple((i, i) for i in range(len(centred))))
        self._parts.append((both, own, valid.sum()))  # fetched at the end: a few numbers for each batch

    def values(self) -> dict[str, Float[np.ndarray, "p l"]]:
        """Returns debiased CKA by kind, of each pair and layer; NaN where a layer is the same for all images."""
        both = own = np.zeros(())
        for products, squares, n in self._parts:
            weight = 1 / (float(n) - 3)  # HSIC_1 by the batch's number of images
            both = both + weight * np.asarray(products, np.float64)
            own = own + weight * np.asarray(squares, np.float64)
        i, j = self._pairs.T
        value = np.vectorize(ratio, otypes=[np.float64])
        return {kind: value(both[:, :, k], own[i, :, k], own[j, :, k]) for k, kind in enumerate(KINDS)}


def map_gram(maps: Float[Array, "b ... d"], valid: Float[Array, " b"]) -> Float[Array, "b b"]:
    """Returns the inner products of images' flattened maps less their mean over the valid ones; 0 for the others.

    Values that are the same for all images are 0, but for float32's rounding.
    """
    x = maps.reshape(len(maps), -1).astype(jnp.float32)
    weight = valid[:, None] / jnp.maximum(valid.sum(), 1)
    mean = jnp.sum(weight * x, axis=0)
    near = (x - mean) * valid[:, None]
    spread = jnp.sum(near * near * weight, axis=0)
    near = jnp.where(spread > _CONSTANT * mean**2, near, 0.0)
    return jnp.matmul(near, near.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


@jax.jit
def _centred(
    features: tuple[Array, ...], grams: tuple[Array, ...], valid: Array, widths: Array, sizes: Array
) -> Float[Array, "l k b b"]:
    """U-centred Gram matrices of each layer and kind, 0 where an image does not count."""
    return jnp.stack(
        [
            jnp.stack([_u_centred(g / jnp.where(size > 0, size, 1.0), valid), _u_centred(_rbf(x, width), valid)])
            for x, g, width, size in zip(features, grams, widths, sizes)
        ]
    )


def _rbf(x: Float[Array, "b d"], width: Float[Array, ""]) -> Float[Array, "b b"]:
    x = x - x.mean(axis=0)
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    square = jnp.diag(gram)
    distances = jnp.maximum(square[:, None] + square - 2 * gram, 0.0)
    return jnp.where(width > 0, jnp.exp(distances / (-2 * jnp.where(width > 0, width, 1.0))), 1.0)


def _u_centred(k: Float[Array, "b b"], valid: Float[Array, " b"]) -> Float[Array, "b b"]:
    mask = valid[:, None] * valid * (1 - jnp.eye(len(k)))
    n = valid.sum()
    k = (k - jnp.sum(k * mask) / (n * (n - 1))) * mask  # a constant changes nothing, and leaves smaller numbers
    rows = k.sum(axis=0)
    return (k - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))) * mask


@functools.partial(jax.jit, static_argnames="pairs")
def _products(centred: tuple[Array, ...], pairs: tuple[tuple[int, int], ...]) -> Float[Array, "p l k"]:
    return jnp.stack([jnp.sum(centred[i] * centred[j], axis=(2, 3)) for i, j in pairs])
