"""Clusters of a memory bank: k-means and its balanced form, for banks that are divided over the devices by rows.

Written as if one device held all of it. The bank is read in blocks of which each device has its part, so that memory
beyond the bank and an integer for each row does not grow with the rows, and centroids are all that devices exchange.
Equal seeds give equal seeds of clusters on any number of devices; sums over rows are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

_MULTIPLE = 1024  # of rows in a block, where the bank's rows are one: any usual number of devices divides it
_SCORES = 2**24  # similarities of rows and centroids that are in memory at a time, over all devices


def _float32(x: Num[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows as numbers: a bank of bfloat16 holds bits (see `objectives.bank`)."""
    return (lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x).astype(jnp.float32)


class Clusters(NamedTuple):
    """Centroids, and which of them each row belongs to: -1 for rows that are not there."""

    centroids: Float[Array, "k d"]
    assignments: Int[Array, " n"]


def seeds(rng: Array, x: Num[Array, "n d"], valid: Bool[Array, " n"], k: int) -> Float[Array, "k d"]:
    """Returns `k` different rows, drawn alike from those that are valid (of which there must be as many)."""
    drawn = jnp.where(valid, jax.random.uniform(rng, valid.shape), -1.0)
    return _float32(x[lax.top_k(drawn, k)[1]])


def kmeans(
    rng: Array,
    x: Num[Array, "n d"],
    valid: Bool[Array, " n"],
    *,
    k: int,
    iterations: int,
    spherical: bool,
    restarts: int = 1,
) -> Clusters:
    """K-means from random rows (Lloyd's algorithm, see `lloyd`), the best of some restarts."""
    run = lambda key: lloyd(x, valid, seeds(key, x, valid, k), iterations=iterations, spherical=spherical)  # noqa: E731
    if restarts == 1:
        return run(rng)

    def again(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids = run(jax.random.fold_in(rng, number)).centroids
        total = _assign(x, valid, centroids, _offset(centroids, spherical))[1]
        return jax.tree.map(lambda new, old: jnp.where(total > best[0], new, old), (total, centroids), best)

    start = (jnp.float32(-jnp.inf), jnp.zeros((k, x.shape[1])))
    centroids = lax.fori_loop(0, restarts, again, start)[1]
    return Clusters(centroids, _assign(x, valid, centroids, _offset(centroids, spherical))[0])


def lloyd(
    x: Num[Array, "n d"],
    valid: Bool[Array, " n"],
    centroids: Float[Array, "k d"],
    *,
    iterations: int,
    spherical: bool,
) -> Clusters:
    """Assigns each row to its centroid and moves centroids to the mean of their rows, so many times; assigns again.

    A row's centroid is the nearest one, the first of equally near ones. A centroid without rows stays where it is.

    Args:
      x: rows, or the bits of bfloat16 as a bank has them; of length one if `spherical`.
      valid: rows that have a part.
      centroids: to begin with; of length one if `spherical`.
      iterations: moves of the centroids.
      spherical: by cosine, and centroids have length one (Dhillon & Modha 2001); else by Euclidean distance.
    """

    def moved(_: Array, centroids: Array) -> Array:
        assignments, _total = _assign(x, valid, centroids, _offset(centroids, spherical))
        return _means(x, assignments, centroids, spherical)

    centroids = lax.fori_loop(0, iterations, moved, centroids.astype(jnp.float32))
    return Clusters(centroids, _assign(x, valid, centroids, _offset(centroids, spherical))[0])


def balanced(
    rng: Array,
    x: Num[Array, "n d"],
    valid: Bool[Array, " n"],
    *,
    k: int,
    iterations: int,
    epsilon: float,
    sinkhorn_iterations: int,
) -> Clusters:
    """Spherical k-means whose rows are shared out alike: each goes to its largest entry of Sinkhorn-Knopp's Q.

    Q is that of `losses.sinkhorn` for all rows at once (Asano et al. 2020, SeLa, section 3.2; Cuturi 2013), which never
    stands in memory: it is scores / epsilon - a - b with a value of `a` for each centroid and of `b` for each row, and
    an iteration is one pass over the rows.

    Args:
      rng: for the seeds, random rows.
      x: rows of length one.
      valid: rows that have a part.
      k: clusters.
      iterations: moves of the centroids.
      epsilon: weight of the entropy, > 0.
      sinkhorn_iterations: at least 1.
    """

    def share(centroids: Array) -> Int[Array, " n"]:
        return _assign(x, valid, centroids, -epsilon * _potential(x, valid, centroids, epsilon, sinkhorn_iterations))[0]

    def moved(_: Array, centroids: Array) -> Array:
        return _means(x, share(centroids), centroids, spherical=True)

    centroids = lax.fori_loop(0, iterations, moved, seeds(rng, x, valid, k))
    return Clusters(centroids, share(centroids))


def distances(x: Num[Array, "n d"], clusters: Clusters) -> Float[Array, " n"]:
    """Returns the Euclidean distance of each row to its centroid; 0 for rows that have none."""

    def block(rows: Array, assignments: Array) -> Array:
        apart = _float32(rows) - clusters.centroids[jnp.maximum(assignments, 0)]
        return jnp.where(assignments >= 0, jnp.sqrt(jnp.sum(apart * apart, axis=-1)), 0.0)

    work = lambda carry, *arrays: (carry, block(*arrays))  # noqa: E731
    return _over_rows(work, 0, x, clusters.assignments, columns=x.shape[1])[1]


def sizes(assignments: Int[Array, " n"], k: int) -> Float[Array, " k"]:
    """Returns how many rows each cluster has."""
    return totals(jnp.ones((len(assignments), 1)), assignments, k)[:, 0]


def totals(x: Num[Array, "n d"], assignments: Int[Array, " n"], k: int) -> Float[Array, "k d"]:
    """Returns the sum of the rows of each cluster, float32; rows that have none (-1) are left out.

    On GPUs and TPUs as a product: a scatter that adds is atomic there, or with --deterministic one row after the other.
    """

    def added(sums: Array, rows: Array, own: Array) -> tuple[Array, None]:
        return sums + jax.ops.segment_sum(_float32(rows), jnp.where(own < 0, k, own), k), None

    def multiplied(sums: Array, rows: Array, own: Array) -> tuple[Array, None]:
        return sums + _product(jax.nn.one_hot(own, k).T, _float32(rows)), None

    zeros = jnp.zeros((k, x.shape[1]))
    if jax.default_backend() != "cpu":
        return _over_rows(multiplied, zeros, x, assignments, columns=k)[0]
    if x.dtype == jnp.float32:
        return added(zeros, x, assignments)[0]
    return _over_rows(added, zeros, x, assignments, columns=x.shape[1])[0]  # never all of it in float32


def _offset(centroids: Float[Array, "k d"], spherical: bool) -> Float[Array, " k"]:
    """|x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2): the nearest centroid has the largest x c - |c|^2 / 2."""
    return jnp.zeros(len(centroids)) if spherical else -0.5 * jnp.sum(centroids * centroids, axis=1)


def _assign(
    x: Num[Array, "n d"], valid: Bool[Array, " n"], centroids: Float[Array, "k d"], offset: Float[Array, " k"]
) -> tuple[Int[Array, " n"], Float[Array, ""]]:
    """The centroid with the largest x c + offset of each row, and the sum of these over the valid rows."""

    def block(total: Array, rows: Array, there: Array) -> tuple[Array, Array]:
        scores = _product(rows, centroids.T) + offset
        total += jnp.sum(jnp.where(there, scores.max(axis=1), 0.0))
        return total, jnp.where(there, scores.argmax(axis=1).astype(jnp.int32), -1)

    total, assignments = _over_rows(block, jnp.float32(0), x, valid, columns=len(centroids))
    return assignments, total


def _means(
    x: Num[Array, "n d"], assignments: Int[Array, " n"], centroids: Float[Array, "k d"], spherical: bool
) -> Float[Array, "k d"]:
    sums = totals(x, assignments, len(centroids))
    divisor = jnp.linalg.norm(sums, axis=1) if spherical else sizes(assignments, len(centroids))
    return jnp.where(divisor[:, None] > 1e-6, sums / jnp.maximum(divisor, 1e-6)[:, None], centroids)


def _potential(
    x: Num[Array, "n d"], valid: Bool[Array, " n"], centroids: Float[Array, "k d"], epsilon: float, iterations: int
) -> Float[Array, " k"]:
    """The `a` of `balanced`: log sum over rows of exp(scores / epsilon - b), with b = 0 in the first iteration."""

    def once(first: bool, a: Array) -> Array:
        def block(carry: Array, rows: Array, there: Array) -> tuple[Array, None]:
            s = _product(rows, centroids.T) / epsilon
            s = s if first else s - jax.nn.logsumexp(s - a, axis=1, keepdims=True)
            return jnp.logaddexp(carry, jax.nn.logsumexp(s, axis=0, where=there[:, None])), None

        return _over_rows(block, jnp.full(len(centroids), -jnp.inf), x, valid, columns=len(centroids))[0]

    a = once(True, jnp.zeros(len(centroids)))
    return lax.fori_loop(0, iterations - 1, lambda _, a: once(False, a), a)


def _over_rows(work: Callable[..., tuple[Any, Any]], carry: Any, *arrays: Array, columns: int) -> tuple[Any, Any]:
    """Scans blocks of rows; block i of m has every m-th row, so that each device reads its own and none is sent."""
    n = len(arrays[0])
    count = _blocks(n, columns)
    split = [x.reshape(n // count, count, *x.shape[1:]) for x in arrays]

    def step(carry: Any, number: Array) -> tuple[Any, Any]:
        return work(carry, *(lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False) for x in split))

    carry, out = lax.scan(step, carry, jnp.arange(count))
    return carry, jax.tree.map(lambda y: y.swapaxes(0, 1).reshape(n, *y.shape[2:]), out)


def _blocks(n: int, columns: int) -> int:
    """The fewest blocks of at most _SCORES entries that n rows divide into, each of a multiple of _MULTIPLE rows."""
    if n % _MULTIPLE:
        return 1
    units = n // _MULTIPLE
    fitting = (m for m in range(1, units + 1) if units % m == 0 and n // m * columns <= _SCORES)
    return next(fitting, units)


def _product(x: Num[Array, "n k"], y: Float[Array, "k m"]) -> Float[Array, "n m"]:
    # On GPUs and TPUs the default precision of a float32 product is lower than float32.
    return jnp.matmul(_float32(x), y, precision=lax.Precision.HIGHEST)
