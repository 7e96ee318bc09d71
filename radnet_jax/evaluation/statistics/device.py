"""The AUROC of many resamples on an accelerator, for the few times that the host's seconds are too many.

Whole numbers all the way: the results are those of `weighted`, to the last bit. jax is imported on use only, so that
the rest of the statistics stays light.
"""

from __future__ import annotations

from collections.abc import Iterable
import functools
from typing import Any

from jaxtyping import Float, Int, Num
import numpy as np

from radnet_jax.evaluation.metrics.classification import known_entries

_BITS = 12  # a sum is split into its low bits and the rest, as products overflow 32 bits
_MAX_CASES = 2 ** (31 - _BITS) - 1  # the sum of the low parts must fit too


def auroc_values(
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    counts: Iterable[Int[np.ndarray, "r g"]],
    *,
    label_mask: Num[np.ndarray, "n k"] | None = None,
    group: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "b k"]:
    """Each label's area under the ROC curve in each resample, on jax's default device.

    Args:
      scores: of one run.
      labels: 0 or 1.
      counts: blocks of resamples, as of `draws.resample_counts`; blocks of equal size are compiled once.
      label_mask: 1 where known; None: all are.
      group: index of each case's patient.

    Returns:
      NaN where a resample has one class, or the label a NaN score.

    Raises:
      ValueError: a resample of more than 524,287 cases.
    """
    scores, truth, known = known_entries(scores, labels, label_mask)
    order = np.argsort(scores, axis=0, kind="stable")
    columns = [_column(scores[i, j], truth[i, j], known[i, j], group[i]) for j, i in enumerate(order.T)]
    placed = tuple(np.stack(part) for part in zip(*columns))
    kernel, on_device = _kernel()
    placed = on_device(placed)
    blocks: list[np.ndarray] = []
    waiting: tuple[Any, ...] | None = None
    for block in counts:
        dispatched = kernel(np.asarray(block), *placed)
        if waiting is not None:  # one block is on its way while another is computed
            blocks.append(_areas(*waiting))
        waiting = dispatched
    if waiting is not None:
        blocks.append(_areas(*waiting))
    values = np.concatenate(blocks, axis=1).T
    values[:, np.isnan(np.where(known, scores, 0)).any(axis=0)] = np.nan
    return values


def _areas(low: Any, high: Any, n_positive: Any, n_negative: Any, n_cases: Any) -> Float[np.ndarray, "k r"]:
    low, high, n_positive, n_negative = (np.asarray(x, np.float64) for x in (low, high, n_positive, n_negative))
    if float(np.max(n_cases)) > _MAX_CASES:
        raise ValueError(f"a resample has more than {_MAX_CASES} cases")
    pairs = 2 * n_positive * n_negative
    values = np.full(pairs.shape, np.nan)
    np.divide(low + 2.0**_BITS * high, pairs, out=values, where=pairs > 0)
    return values


def _column(scores: np.ndarray, truth: np.ndarray, known: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of sorted cases: patient, whether positive and whether negative, where its equals begin and where they end."""
    begin = np.searchsorted(scores, scores, "left").astype(np.int32)
    end = np.searchsorted(scores, scores, "right").astype(np.int32)
    return group.astype(np.int32), (truth & known).astype(np.int32), (~truth & known).astype(np.int32), begin, end


@functools.cache
def _kernel() -> Any:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def kernel(counts: Any, group: Any, positive: Any, negative: Any, begin: Any, end: Any) -> Any:
        """By label and resample low bits and rest of twice U and the cases of either class, in int32; by resample all
        cases, in float32, which is exact up to 2^24 and can't wrap around.
        """
        counts = counts.astype(jnp.int32)

        def of_label(column: Any) -> Any:
            group, positive, negative, begin, end = column
            weight = counts[:, group]
            below = jnp.cumsum(weight * negative, axis=1)
            below = jnp.pad(below, ((0, 0), (1, 0)))
            twice = below[:, begin] + below[:, end]
            weight = weight * positive
            low, high = twice & (2**_BITS - 1), twice >> _BITS
            return (weight * low).sum(axis=1), (weight * high).sum(axis=1), weight.sum(axis=1), below[:, -1]

        n_cases = counts[:, group[0]].astype(jnp.float32).sum(axis=1)
        found = jax.lax.map(of_label, (group, positive, negative, begin, end))  # one label at a time: memory
        return (*found, n_cases)

    return kernel, jax.device_put
