"""The Dice metrics of `metrics.dice` under many weightings of the patients: sums over cases, one matrix product."""

from __future__ import annotations

import numpy as np

from radnet_jax.evaluation.metrics.classification import known_entries
from radnet_jax.evaluation.statistics.sums import Weighted, mean_of_defined, of_sums, ratio


def dice_per_volume(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, _, known = known_entries(scores, labels, label_mask)
    return _mean(scores, known, group, n_groups)


def dice_positives_only(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    return _mean(scores, known & truth, group, n_groups)


def dice_empty_is_one(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, _, known = known_entries(scores, labels, label_mask)
    return _mean(np.where(np.isnan(scores), 1.0, scores), known, group, n_groups)


def dice_nnunet(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, _, known = known_entries(scores, labels, label_mask)
    return _mean(scores, known, group, n_groups, all_regions=True)


def _mean(
    scores: np.ndarray, counting: np.ndarray, group: np.ndarray, n_groups: int, *, all_regions: bool = False
) -> Weighted:
    defined = counting & ~np.isnan(scores)

    def finish(sums: np.ndarray) -> np.ndarray:
        means = ratio(*np.split(sums, 2, axis=1)).T
        return means.mean(axis=0) if all_regions else mean_of_defined(means)

    return of_sums(np.concatenate([np.where(defined, scores, 0.0), defined], axis=1), finish, group, n_groups)
