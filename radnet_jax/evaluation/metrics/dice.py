"""Dice of segmented cases as metrics of a split: what a run is ranked by and what patients are resampled on.

Scores are each case's Dice by region, undefined (NaN) where truth and prediction are empty; labels say where there is
something to find, and the mask where the truth is known. Each metric is a named convention (see `conventions`) whose
value is a mean over cases; conventions that pool voxels stand beside it in run.json.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Num
import numpy as np

from radnet_jax.evaluation.metrics import METRICS, Metric, declare, undefined
from radnet_jax.evaluation.metrics.classification import known_at_all, known_entries

_KINDS = frozenset({"segmentation"})


def known_with_truth(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases that have something to find in a region that is known."""
    _, truth, known = known_entries(labels, labels, label_mask)
    return np.any(known & truth, axis=1)


@METRICS.register("dice_per_volume")
@declare(task_kinds=_KINDS, entering=known_at_all)
def dice_per_volume(
    scores: Float[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Convention `per_volume`: mean over cases, those left out that are empty in truth and prediction."""
    scores, _, known = known_entries(scores, labels, label_mask)
    return _mean(scores, known)


@METRICS.register("dice_positives_only")
@declare(task_kinds=_KINDS, entering=known_with_truth)
def dice_positives_only(
    scores: Float[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Convention `positives_only`: mean over the cases that have something to find."""
    scores, truth, known = known_entries(scores, labels, label_mask)
    return _mean(scores, known & truth)


@METRICS.register("dice_empty_is_one")
@declare(task_kinds=_KINDS, entering=known_at_all)
def dice_empty_is_one(
    scores: Float[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Conventions `lits_per_case`, `brats_2020` and `btl_per_image`: mean over cases, empty in both counts 1."""
    scores, _, known = known_entries(scores, labels, label_mask)
    return _mean(np.where(np.isnan(scores), 1.0, scores), known)


@METRICS.register("dice_nnunet")
@declare(task_kinds=_KINDS, entering=known_at_all)
def dice_nnunet(
    scores: Float[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Convention `nnunet`: as `dice_per_volume`, and undefined where a region is."""
    found = dice_per_volume(scores, labels, label_mask)
    if found.left_out and not found.reason:
        return undefined("region_undefined", per_class=found.per_class, left_out=found.left_out, cases=found.cases)
    return found


def _mean(scores: Float[np.ndarray, "n k"], counting: Bool[np.ndarray, "n k"]) -> Metric:
    """The mean over the cases that count and have a value, then over the regions that have one."""
    defined = counting & ~np.isnan(scores)
    n = defined.sum(axis=0)
    means = np.divide(np.where(defined, scores, 0).sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)
    facts = {
        "per_class": tuple(means.tolist()),
        "left_out": tuple(np.flatnonzero(n == 0).tolist()),
        "cases": tuple(n.tolist()),
    }
    if not n.any():
        return undefined("both_empty" if counting.any() else "no_cases", **facts)
    return Metric(float(means[n > 0].mean()), "", **facts)
