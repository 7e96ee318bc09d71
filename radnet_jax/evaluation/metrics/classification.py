"""Accuracy, best guesses, and the areas under the ROC and the precision-recall curve."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Num
import numpy as np
from scipy.stats import rankdata

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import METRICS, Metric, declare, undefined


def known_entries(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores as float64, labels and mask as booleans, each [n k].

    Raises:
      UserError: shapes that differ, or a known label that is neither 0 nor 1.
    """
    scores = np.asarray(scores, np.float64)
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if label_mask is None else np.asarray(label_mask) > 0
    if scores.ndim != 2 or not scores.shape == labels.shape == known.shape:
        raise UserError(f"scores {scores.shape}, labels {labels.shape} and mask {known.shape} must be equal [n k]")
    wrong = known & (labels != 0) & (labels != 1)
    if wrong.any():
        raise UserError(
            "labels out of range",
            got=", ".join(f"{v:g}" for v in np.unique(labels[wrong])[:4]),
            expected="0 or 1 where the mask is 1",
            fix="np.eye(k)[classes] makes one-hot rows of class indices",
        )
    return scores, labels > 0, known


def single_label(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """What a metric of a single-label task rests on.

    Returns:
      scores [m k] of the cases whose whole row is known, their classes [m], which cases those are [n], and a reason, or
      "": "no_cases", "not_single_label" or "nan_scores". With a reason, the classes mean nothing.
    """
    scores, truth, known = known_entries(scores, labels, label_mask)
    cases = np.all(known, axis=1)
    reason = ""
    if not cases.any():
        reason = "no_cases"
    elif scores.shape[1] < 2 or (truth[cases].sum(axis=1) != 1).any():
        reason = "not_single_label"
    elif np.isnan(scores[cases]).any():
        reason = "nan_scores"
    return scores[cases], truth[cases].argmax(axis=1) if truth.shape[1] else np.zeros(0, int), cases, reason


def is_correct(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Which cases have their highest score at the label, and which are known, each [n]; and a reason, or "".

    Of equal highest scores the first class counts, as in `numpy.argmax`.
    """
    known_scores, classes, cases, reason = single_label(scores, labels, label_mask)
    correct = np.zeros(len(cases), np.bool_)
    if not reason:
        correct[cases] = known_scores.argmax(axis=1) == classes
    return correct, cases, reason


def fully_known(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases whose whole row is known: those that accuracy counts."""
    return np.all(known_entries(labels, labels, label_mask)[2], axis=1)


def known_at_all(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases that are known for any label: those that a mean over labels rests on."""
    return np.any(known_entries(labels, labels, label_mask)[2], axis=1)


def known_in_two_classes(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases that are known for a label with cases of both classes: those that the AUROC's mean rests on."""
    _, truth, known = known_entries(labels, labels, label_mask)
    both = (known & truth).any(axis=0) & (known & ~truth).any(axis=0)
    return np.any(known & both, axis=1)


@METRICS.register("accuracy")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known)
def accuracy(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Share of the labelled cases whose highest score stands at the label; single-label tasks, in [0, 1].

    Args:
      scores: any monotone score; higher is more likely.
      labels: one-hot.
      label_mask: 1 where known; a case counts where its whole row is known. None: all are.
    """
    correct, cases, reason = is_correct(scores, labels, label_mask)
    return undefined(reason) if reason else Metric(float(correct.sum() / cases.sum()))


def top_k(
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None = None,
    *,
    guesses: int,
) -> Metric:
    """Share of the labelled cases whose label is among the `guesses` highest scores; single-label tasks, in [0, 1].

    Of equal scores the first classes count, so that one guess is `accuracy`. Undefined ("few_classes") where there are
    no more classes than guesses: it would be 1 whatever the scores.

    Raises:
      UserError: fewer than one guess.
    """
    if guesses < 1:
        raise UserError("top_k needs at least one guess", got=guesses)
    scores, classes, _, reason = single_label(scores, labels, label_mask)
    if reason:
        return undefined(reason)
    n, n_classes = scores.shape
    if guesses >= n_classes:
        return undefined("few_classes")
    own = scores[np.arange(n), classes][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(n_classes) < classes[:, None]))
    return Metric(float(np.mean(before.sum(axis=1) < guesses)))


@METRICS.register("top_5")
@declare(task_kinds=frozenset({"single_label"}), entering=fully_known)
def top_5(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """`top_k` with five guesses."""
    return top_k(scores, labels, label_mask, guesses=5)


def over_labels(
    of_one: Callable[[np.ndarray, np.ndarray], Metric],
    scores: Num[np.ndarray, "n k"],
    labels: Num[np.ndarray, "n k"],
    label_mask: Num[np.ndarray, "n k"] | None,
) -> Metric:
    """The mean over labels of a metric of each label's known cases.

    A label that has no value is left out and listed in `left_out`. Scores that are no number, or no probability where
    one is needed, are the model's fault and not the data's: one of them makes the mean undefined.

    Args:
      of_one: (scores [m], positive [m]) -> Metric, of the cases where one label is known.
      scores: as for `auroc`.
      labels: 0 or 1.
      label_mask: 1 where known; None: all are.
    """
    scores, truth, known = known_entries(scores, labels, label_mask)
    each = [of_one(scores[m, j], truth[m, j]) for j, m in enumerate(known.T)]
    per_class = tuple(m.value for m in each)
    left_out = tuple(j for j, m in enumerate(each) if m.reason)
    reasons = {m.reason for m in each}
    for reason in ("nan_scores", "not_probabilities"):
        if reason in reasons:
            return undefined(reason, per_class=per_class, left_out=left_out)
    if len(left_out) == len(each):
        reason = next((r for r in ("one_class", "no_positive") if r in reasons), "no_cases")
        return undefined(reason, per_class=per_class, left_out=left_out)
    return Metric(float(np.mean([m.value for m in each if not m.reason])), "", per_class, left_out)


def two_classes(scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> str:
    """Why a metric that needs cases of both classes is undefined, or ""."""
    if len(scores) == 0:
        return "no_cases"
    if np.isnan(scores).any():
        return "nan_scores"
    return "one_class" if positive.all() or not positive.any() else ""


def binary_auroc(scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Metric:
    """Area under the ROC curve of one label by the rank sum; equal scores count half (midranks), exactly.

    Mann and Whitney, Ann. Math. Stat. 18, 1947: P(score of a positive > score of a negative) + P(equal) / 2.
    """
    reason = two_classes(scores, positive)
    if reason:
        return undefined(reason)
    n, n_positive = len(scores), int(np.sum(positive))
    ranks = rankdata(np.asarray(scores, np.float64))
    u = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return Metric(float(u / (n_positive * (n - n_positive))))


@METRICS.register("auroc")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_in_two_classes)
def auroc(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Area under the ROC curve, in [0, 1]: the mean over labels of each label's, over the cases where it is known.

    With one column this is the binary area; with one-hot labels the one-vs-rest macro mean (two classes with
    complementary scores give twice the binary one); with many findings the macro mean.

    A label with one class, or with no known case, has no area: it is left out of the mean and listed in `left_out`. NaN
    scores are the model's fault, not the data's: one of them makes the mean undefined.
    """
    return over_labels(binary_auroc, scores, labels, label_mask)


def operating_points(
    scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every threshold of one label, from the highest: (thresholds, true positives, false positives), each [t].

    A case is called positive where its score reaches the threshold, so equal scores are called together.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    scores, positive = np.asarray(scores, np.float64)[order], np.asarray(positive)[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    true = np.cumsum(positive)[last]
    return scores[last], true, last + 1 - true


def binary_auprc(scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Metric:
    """Area under the precision-recall curve of one label as average precision; equal scores are called together.

    sum over thresholds of (recall - recall at the threshold above) x precision: a step function, as in scikit-learn. A
    straight line between points would be too optimistic (Davis and Goadrich, ICML 2006). Undefined with one class.
    """
    reason = two_classes(scores, positive)
    if reason:
        return undefined(reason)
    _, true, false = operating_points(scores, positive)
    return Metric(float(np.sum(np.diff(true, prepend=0) * (true / (true + false))) / true[-1]))


@METRICS.register("auprc")
@declare(task_kinds=frozenset({"single_label", "multi_label"}), entering=known_in_two_classes)
def auprc(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Metric:
    """Average precision, in (0, 1]: the mean over labels of each label's, over the cases where it is known.

    The same labels are left out as of `auroc`. Its level by chance is the share of positives, so it can't be compared
    between data sets of other shares.
    """
    return over_labels(binary_auprc, scores, labels, label_mask)
