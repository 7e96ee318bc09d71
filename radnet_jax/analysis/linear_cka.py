"""Linear CKA of every layer of one network against every layer of another: one pass, exact, on devices.

With linear kernels K = XX' both the biased HSIC and HSIC_1 of Song et al. (JMLR 13, 2012, equation 5) are functions of
sums over images: of the products X'Y, of the features, of the squared norms k_i = |x_i|^2, and of norms times features.
So the memory needed is that of X'Y, whatever the number of images. HSIC_1, which takes Gram matrices without their
diagonals, becomes

    tr(KL)     = |X'Y|^2 - sum k_i l_i
    1'K1       = |sum x_i|^2 - sum k_i
    1'KL1      = s_x' (X'Y) s_y - s_x . sum l_i x_i - s_y . sum k_i y_i + sum k_i l_i,   s = sum over images.

Neither changes with a shift of the features: the first images' mean is taken off, so that float32 products of features
far from 0 lose nothing. Sums over batches are compensated (Neumaier 1974), and what is left is done in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
import numpy as np

from radnet_jax import sharding
from radnet_jax.errors import UserError

_LEAST = 4  # images that HSIC_1 needs
_CONSTANT = 1e-10  # variance by mean square: below it, only float32's rounding is left
Sums = dict[str, Any]


class LinearCka:
    """The sums of two networks' layers; `add` takes batches, `map` gives CKA of each layer against each.

    Args:
      widths_a: the features of each layer of the first network, in the order of the rows.
      widths_b: of the second one, in the order of the columns.
      mesh: where to compute; the products, which are large, are divided over its devices by rows where these divide
        them.
    """

    def __init__(self, widths_a: Sequence[int], widths_b: Sequence[int], mesh: Mesh):
        self.widths = (tuple(widths_a), tuple(widths_b))
        self._update = _compiled(mesh, sum(widths_a) % mesh.size == 0)
        self._shift: Any = None
        self._sums: Any = None

    def add(
        self, a: Sequence[Float[Array, "b d"]], b: Sequence[Float[Array, "b e"]], valid: Float[Array, " b"]
    ) -> None:
        """Adds a batch: the features of each layer of both networks, of the same images; those not `valid` don't count.

        The batches must be of one size. Large ones are faster: the products are read and written once for each.
        """
        a, b = tuple(a), tuple(b)
        if self._shift is None:
            self._shift = _means(a, b, valid)
            shapes = jax.eval_shape(_products, self._shift, a, b, valid)
            self._sums = tuple(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes) for _ in range(2))
        self._sums = self._update(self._sums, self._shift, a, b, valid)

    def wait(self) -> None:
        """Waits until all that was added is in the sums."""
        jax.block_until_ready(self._sums)

    @property
    def images(self) -> int:
        """Images added."""
        return int(self._host("n")) if self._sums is not None else 0

    def map(self, *, debiased: bool = True) -> Float[np.ndarray, "i j"]:
        """Returns CKA, float64: layers of the first network by layers of the second; NaN where a layer is constant.

        Raises:
          UserError: fewer than 4 images.
        """
        if self.images < _LEAST:
            raise UserError("fewer images than needed", got=self.images, expected=f"at least {_LEAST}")
        both = self._both(debiased)
        own = [self._own(side, debiased) for side in (0, 1)]
        scale = np.sqrt(own[0])[:, None] * np.sqrt(own[1])[None]
        return both / scale

    def constant(self) -> tuple[list[int], list[int]]:
        """Returns the places of the layers whose features are the same for all images, of each network."""
        n, shifts = self.images, [np.asarray(s, np.float64) for s in self._shift]
        found: tuple[list[int], list[int]] = ([], [])
        for side, shift in enumerate(shifts):
            total = self._host(f"sum_{side}")
            squares = self._host(f"norms_{side}")
            for i, place in enumerate(_places(self.widths[side])):
                variance = squares[i] / n - np.sum((total[place] / n) ** 2)
                mean_square = np.sum((shift[place] + total[place] / n) ** 2) + variance
                if not variance > _CONSTANT * mean_square:
                    found[side].append(i)
        return found

    def _host(self, name: str, index: int | None = None) -> Float[np.ndarray, ...]:
        high, low = (s[name] if index is None else s[name][index] for s in self._sums)
        return np.asarray(high, np.float64) + np.asarray(low, np.float64)

    def _both(self, debiased: bool) -> Float[np.ndarray, "i j"]:
        rows, columns = (_places(w) for w in self.widths)
        sums = [self._host("sum_0"), self._host("sum_1")]
        norms = [self._host("norms_0"), self._host("norms_1")]
        weighted = [self._host("weighted_0_1"), self._host("weighted_1_0")]  # [D_a j], [D_b i]
        together = self._host("norms_0_1")
        out = np.empty((len(rows), len(columns)))
        for i, row in enumerate(rows):
            products = [np.asarray(s["products"][row], np.float64) for s in self._sums]
            products[0] += products[1]
            for j, column in enumerate(columns):
                out[i, j] = _hsic(
                    products[0][:, column],
                    (sums[0][row], sums[1][column]),
                    (norms[0][i], norms[1][j]),
                    (weighted[0][row, j], weighted[1][column, i]),
                    together[i, j],
                    self.images,
                    debiased,
                )
        return out

    def _own(self, side: int, debiased: bool) -> Float[np.ndarray, " i"]:
        total, norms = self._host(f"sum_{side}"), self._host(f"norms_{side}")
        weighted, together = self._host(f"weighted_{side}"), self._host(f"norms_{side}_{side}")
        constant = self.constant()[side]
        out = np.full(len(norms), np.nan)
        for i, place in enumerate(_places(self.widths[side])):
            if i in constant:
                continue
            value = _hsic(
                self._host(f"own_{side}", i),
                (total[place],) * 2,
                (norms[i],) * 2,
                (weighted[place],) * 2,
                together[i],
                self.images,
                debiased,
            )
            out[i] = value if value > 0 else np.nan
        return out


def _places(widths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths)]


def _hsic(
    products: Float[np.ndarray, "d e"],
    sums: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " e"]],
    norms: tuple[float, float],
    weighted: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " e"]],
    together: float,
    n: int,
    debiased: bool,
) -> float:
    """HSIC from the sums, times (n - 1)^2, or HSIC_1 times n (n - 3).

    Args:
      products: X'Y.
      sums: s_x, s_y.
      norms: sum of k_i, of l_i.
      weighted: sum of l_i x_i, of k_i y_i.
      together: sum of k_i l_i.
      n: images.
      debiased: which of the two.
    """
    s, t = sums
    if not debiased:
        return float(np.sum((products - np.outer(s, t) / n) ** 2))
    trace = np.sum(products**2) - together
    both = (s @ s - norms[0]) * (t @ t - norms[1])
    rows = s @ products @ t - s @ weighted[0] - t @ weighted[1] + together
    return float(trace + both / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


@jax.jit
def _means(a: tuple[Array, ...], b: tuple[Array, ...], valid: Array) -> tuple[Array, Array]:
    weight = valid / jnp.maximum(valid.sum(), 1)
    return tuple(jnp.concatenate([weight @ x.astype(jnp.float32) for x in side]) for side in (a, b))  # type: ignore[return-value]


def _products(shift: tuple[Array, Array], a: tuple[Array, ...], b: tuple[Array, ...], valid: Array) -> Sums:
    """The sums of one batch."""
    sides, norms, parts = [], [], []
    for offset, side in zip(shift, (a, b)):
        places = _places([x.shape[1] for x in side])
        near = [(x.astype(jnp.float32) - offset[place]) * valid[:, None] for x, place in zip(side, places)]
        parts.append(near)
        sides.append(jnp.concatenate(near, axis=1))
        norms.append(jnp.stack([jnp.sum(x * x, axis=1) for x in near], axis=1))
    out: Sums = {"n": valid.sum(), "products": _dot(*sides), "norms_0_1": _dot(*norms)}
    for own, other in ((0, 1), (1, 0)):
        out |= {
            f"own_{own}": tuple(_dot(x, x) for x in parts[own]),
            f"sum_{own}": sides[own].sum(axis=0),
            f"norms_{own}": norms[own].sum(axis=0),
            f"norms_{own}_{own}": jnp.sum(norms[own] ** 2, axis=0),
            f"weighted_{own}": jnp.concatenate([_dot(x, norms[own][:, i]) for i, x in enumerate(parts[own])]),
            f"weighted_{own}_{other}": _dot(sides[own], norms[other]),
        }
    return out


def _compensated(total: Array, lost: Array, new: Array) -> tuple[Array, Array]:
    after = total + new
    larger = jnp.abs(total) >= jnp.abs(new)
    return after, lost + jnp.where(larger, (total - after) + new, (new - after) + total)


@functools.lru_cache(maxsize=8)
def _compiled(mesh: Mesh, divided: bool) -> Any:
    whole = sharding.replicated(mesh)
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES)) if divided else whole

    def place(sums: Mapping[str, Any]) -> Sums:
        return {
            k: jax.lax.with_sharding_constraint(v, rows if k == "products" else jax.tree.map(lambda _: whole, v))
            for k, v in sums.items()
        }

    def update(sums: tuple[Sums, Sums], shift: Any, a: Any, b: Any, valid: Array) -> tuple[Sums, Sums]:
        new = place(_products(shift, a, b, valid))
        pairs = jax.tree.map(_compensated, sums[0], sums[1], new)
        outer = jax.tree.structure(new)
        high, low = jax.tree.transpose(outer, jax.tree.structure((0, 0)), pairs)
        return place(high), place(low)

    return jax.jit(update, donate_argnums=0)
