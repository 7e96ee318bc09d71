"""The patients of a bootstrap: who they are, in which stratum, and how often each resample draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Int
import numpy as np

from radnet_jax.errors import UserError

_CELLS = 2**20  # counts drawn at once, so that they stay in the cache; the draws do not depend on it


def group_index(groups: Sequence[Any] | np.ndarray | None, n: int) -> tuple[Int[np.ndarray, " n"], int]:
    """Index of each case's patient and the number of patients; None says aloud that every case stands for itself.

    Raises:
      UserError: a case whose patient is None, NaN or "": they would pass for one patient.
    """
    if groups is None:
        return np.arange(n), n
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} cases")
    whole_numbers = isinstance(groups, np.ndarray) and groups.dtype.kind in "iu"
    # NaN differs from itself. Before asarray, which makes a text of a NaN among texts.
    missing = 0 if whole_numbers else sum(g is None or g == "" or g != g for g in groups)
    if missing:
        raise UserError(
            "a case has no patient",
            got=f"{missing} of {n} without",
            fix="name the patient of each case, or say groups=None: each case is a patient of its own",
        )
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index, len(names)


def stratum_index(
    strata: Sequence[Any] | np.ndarray | None, group: Int[np.ndarray, " n"], n_groups: int
) -> Int[np.ndarray, " g"]:
    """Index of each patient's stratum; None: all are in one.

    Raises:
      UserError: a patient with cases in two strata.
    """
    if strata is None:
        return np.zeros(n_groups, np.int64)
    of_case = np.unique(np.asarray(strata), return_inverse=True)[1]
    if len(of_case) != len(group):
        raise ValueError(f"{len(of_case)} strata for {len(group)} cases")
    of_patient = np.zeros(n_groups, np.int64)
    of_patient[group] = of_case
    torn = len(set(group[of_patient[group] != of_case].tolist()))
    if torn:
        raise UserError(
            "a patient is drawn whole, so all its cases must be in one stratum",
            got=f"{torn} patients in several strata",
            fix="stratify by a fact of the patient, such as whether any of its cases is positive",
        )
    return of_patient


def resample_counts(
    n_groups: int, n_resamples: int, seed: int, stratum: Int[np.ndarray, " g"] | None = None
) -> Iterator[Int[np.ndarray, "r g"]]:
    """Yields blocks of resamples: how often each of `n_groups` patients was drawn, within its stratum.

    The draws are a function of the arguments only; the counts of one patient lie together in memory.
    """
    stratum = np.zeros(n_groups, np.int64) if stratum is None else stratum
    members = [np.flatnonzero(stratum == h) for h in range(int(stratum.max(initial=0)) + 1)]
    rngs = [np.random.default_rng([seed, h]) for h in range(len(members))]  # [seed, 0] is the stream of seed
    rows = int(np.clip(_CELLS // max(n_groups, 1), 16, 1024))
    for begin in range(0, n_resamples, rows):
        rows = min(rows, n_resamples - begin)
        counts = np.empty((n_groups, rows), np.int32)
        for rng, patients in zip(rngs, members):
            n = len(patients)
            if not n:
                continue
            drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
            own = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            counts[slice(None) if n == n_groups else patients] = own.T
        yield counts.T
