"""Metrics of decisions: balanced accuracy, F1, and sensitivity at a specificity."""

from __future__ import annotations

import functools

from jaxtyping import Bool, Num
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import METRICS, Metric, declare, undefined
from radnet_jax.evaluation.metrics.classification import (
    fully_known,
    known_entries,
    known_in_two_classes,
    operating_points,
    over_labels,
    single_label,
    two_classes,
)


def known_with_a_positive(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases that are known for a label that some case has: those that the mean of F1 rests on."""
    _, truth, known = known_entries(labels, labels, label_mask)
    return np.any(known & (known & truth).any(axis=0), axis=1)


@METRICS.register("balanced_accuracy")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known)
def balanced_accuracy(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Mean over classes of the share of a class's cases that are guessed right; single-label tasks, in [0, 1].

    Brodersen et al., ICPR 2010. A class without cases has no share: it is left out and listed. The guess is the highest
    score, the first class of equals.
    """
    scores, classes, _, reason = single_label(scores, labels, label_mask)
    if reason:
        return undefined(reason)
    n_classes = scores.shape[1]
    cases = np.bincount(classes, minlength=n_classes)
    right = np.bincount(classes[scores.argmax(axis=1) == classes], minlength=n_classes)
    return _mean_over_classes(right, cases, cases > 0)


@METRICS.register("f1")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known)
def f1(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN) of the highest score; single-label tasks, in [0, 1].

    A class without cases is left out and listed, whatever was guessed, so that all models are judged on the same
    classes; cases wrongly given to it count against their own class.
    """
    scores, classes, _, reason = single_label(scores, labels, label_mask)
    if reason:
        return undefined(reason)
    guess, n_classes = scores.argmax(axis=1), scores.shape[1]
    cases = np.bincount(classes, minlength=n_classes)
    guessed = np.bincount(guess, minlength=n_classes)
    right = np.bincount(classes[guess == classes], minlength=n_classes)
    return _mean_over_classes(2 * right, cases + guessed, cases > 0)


def _mean_over_classes(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> Metric:
    each = np.full(len(part), np.nan)
    each[defined] = part[defined] / whole[defined]
    left_out = tuple(np.flatnonzero(~defined).tolist())
    return Metric(float(np.mean(each[defined])), "", tuple(each.tolist()), left_out)


def f1_at(
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None = None,
    *,
    threshold: float,
) -> Metric:
    """Mean over labels of F1 = 2 TP / (2 TP + FP + FN), where a score that reaches the threshold calls the label.

    A label that no known case has is left out and listed, whatever was called.
    """

    def of_one(scores: np.ndarray, positive: np.ndarray) -> Metric:
        if len(scores) == 0:
            return undefined("no_cases")
        if np.isnan(scores).any():
            return undefined("nan_scores")
        if not positive.any():
            return undefined("no_positive")
        called = scores >= threshold
        return Metric(float(2 * (called & positive).sum() / (called.sum() + positive.sum())))

    return over_labels(of_one, scores, labels, label_mask)


@METRICS.register("label_f1")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_with_a_positive)
def label_f1(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """`f1_at` a threshold of 0.5: each label on its own, as findings are."""
    return f1_at(scores, labels, label_mask, threshold=0.5)


def binary_sensitivity(
    scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], *, specificity: float
) -> Metric:
    """Highest sensitivity of one label among the thresholds whose specificity is at least the one asked for.

    A case is called where its score reaches the threshold; equal scores are called together and nothing is
    interpolated, so some threshold really has these two values. Calling no case has specificity 1, so a 0 is a
    sensitivity and not a gap.
    """
    reason = two_classes(scores, positive)
    if reason:
        return undefined(reason)
    _, true, false = operating_points(scores, positive)
    enough = (false[-1] - false) / false[-1] >= specificity
    return Metric(float(max(true[enough], default=0) / true[-1]))


def sensitivity_at(
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None = None,
    *,
    specificity: float,
) -> Metric:
    """Mean over labels of `binary_sensitivity`, in [0, 1]; the same labels are left out as of `auroc`.

    The thresholds are chosen on the judged cases: it describes the curve, not a threshold fixed beforehand.

    Raises:
      UserError: a specificity outside 0 to 1.
    """
    if not 0 <= specificity <= 1:
        raise UserError("specificity out of range", got=specificity, expected="0 to 1")
    of_one = functools.partial(binary_sensitivity, specificity=specificity)
    return over_labels(of_one, scores, labels, label_mask)


@METRICS.register("sensitivity_at_95_specificity")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_in_two_classes)
def sensitivity_at_95_specificity(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """`sensitivity_at` a specificity of 0.95."""
    return sensitivity_at(scores, labels, label_mask, specificity=0.95)
