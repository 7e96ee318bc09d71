"""Errors of probabilities: the Brier score and the expected calibration error; lower is better."""

from __future__ import annotations

import functools

from jaxtyping import Bool, Int, Num
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import METRICS, Metric, declare, undefined
from radnet_jax.evaluation.metrics.classification import fully_known, known_at_all, over_labels, single_label

BINS = 15
_ROUNDING = 1e-6  # of probabilities that were computed in float32


@METRICS.register("brier")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known, higher_is_better=False)
def brier(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Mean over cases of the sum over classes of (probability - truth)^2; single-label tasks, in [0, 2].

    Brier, Monthly Weather Review 78, 1950: twice the two-class score of `label_brier`.
    """
    scores, classes, _, reason = single_label(scores, labels, label_mask)
    reason = reason or _no_probabilities(scores)
    if reason:
        return undefined(reason)
    return Metric(float(np.mean(np.sum((scores - np.eye(scores.shape[1])[classes]) ** 2, axis=1))))


@METRICS.register("label_brier")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_at_all, higher_is_better=False)
def label_brier(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Mean over labels of the mean of (probability - truth)^2 over the cases where it is known, in [0, 1].

    It exists for labels with one class too; a label that no case is known for is left out and listed.
    """

    def of_one(scores: np.ndarray, positive: np.ndarray) -> Metric:
        reason = "" if len(scores) else "no_cases"
        reason = reason or _no_probabilities(scores)
        return undefined(reason) if reason else Metric(float(np.mean((scores - positive) ** 2)))

    return over_labels(of_one, scores, labels, label_mask)


def bin_of(probability: Num[np.ndarray, "*n"], bins: int) -> Int[np.ndarray, "*n"]:
    """The bin of each probability, 0 to bins - 1: ((m - 1) / M, m / M], and 0 in the first."""
    # Edges as m / M, not by steps of 1 / M: a probability that equals an edge then falls below it.
    return np.searchsorted(np.arange(1, bins) / bins, probability, side="left")


def calibration_error(probability: Num[np.ndarray, " n"], happened: Bool[np.ndarray, " n"], *, bins: int) -> Metric:
    """Expected calibration error: mean over cases of |share that happened - mean probability| of the case's bin.

    Guo et al., ICML 2017, equation 3: bins of equal width, ((m - 1) / M, m / M]; a probability of 0 falls into the
    first. It is biased upwards, the more so the fewer the cases: compare it only between models on the same cases. A
    bootstrap adds the bias once more, so an interval of it says little of the population's error where that is near 0
    (docs/statistics.md).

    Raises:
      UserError: fewer than one bin.
    """
    if bins < 1:
        raise UserError("a calibration error needs at least one bin", got=bins)
    probability = np.asarray(probability, np.float64)
    reason = "" if len(probability) else "no_cases"
    reason = reason or _no_probabilities(probability)
    if reason:
        return undefined(reason)
    gap = np.bincount(bin_of(probability, bins), np.asarray(happened, np.float64) - probability, bins)
    return Metric(float(np.abs(gap).sum() / len(probability)))


@METRICS.register("ece")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known, higher_is_better=False)
def ece(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """`calibration_error` of the highest probability against being right, in 15 bins; single-label tasks, in [0, 1]."""
    scores, classes, _, reason = single_label(scores, labels, label_mask)
    reason = reason or _no_probabilities(scores)
    if reason:
        return undefined(reason)
    return calibration_error(scores.max(axis=1), scores.argmax(axis=1) == classes, bins=BINS)


@METRICS.register("label_ece")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_at_all, higher_is_better=False)
def label_ece(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Mean over labels of `calibration_error` of the label's probability against its truth, in 15 bins, in [0, 1]."""
    return over_labels(functools.partial(calibration_error, bins=BINS), scores, labels, label_mask)


def _no_probabilities(scores: np.ndarray) -> str:
    if np.isnan(scores).any():
        return "nan_scores"
    outside = scores.size and (scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING)
    return "not_probabilities" if outside else ""
