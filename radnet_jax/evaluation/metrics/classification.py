"""Accuracy and the area under the ROC curve."""

from __future__ import annotations

from jaxtyping import Bool, Num
import numpy as np
from scipy.stats import rankdata

from radnet_jax.evaluation.metrics import METRICS, Metric, declare, undefined


def known_entries(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores as float64, labels and mask as booleans, each [n k]; the shapes are checked."""
    scores = np.asarray(scores, np.float64)
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if label_mask is None else np.asarray(label_mask) > 0
    if scores.ndim != 2 or not scores.shape == labels.shape == known.shape:
        raise ValueError(f"scores {scores.shape}, labels {labels.shape} and mask {known.shape} must be equal [n k]")
    return scores, labels > 0, known


def is_correct(
    scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Which cases have their highest score at the label, and which are known, each [n]; and a reason, or "".

    Of equal highest scores the first class counts, as in `numpy.argmax`.
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
    correct = np.zeros(len(truth), np.bool_)
    if not reason:
        correct[cases] = scores[cases].argmax(axis=1) == truth[cases].argmax(axis=1)
    return correct, cases, reason


def fully_known(
    labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """The cases whose whole row is known: those that accuracy counts."""
    return np.all(known_entries(labels, labels, label_mask)[2], axis=1)


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


def binary_auroc(scores: Num[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Metric:
    """Area under the ROC curve of one label by the rank sum; equal scores count half (midranks), exactly.

    Mann and Whitney, Ann. Math. Stat. 18, 1947: P(score of a positive > score of a negative) + P(equal) / 2.
    """
    n, n_positive = len(scores), int(np.sum(positive))
    if n == 0:
        return undefined("no_cases")
    if np.isnan(scores).any():
        return undefined("nan_scores")
    if n_positive in (0, n):
        return undefined("one_class")
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
    scores, truth, known = known_entries(scores, labels, label_mask)
    each = [binary_auroc(scores[m, j], truth[m, j]) for j, m in enumerate(known.T)]
    per_class = tuple(m.value for m in each)
    left_out = tuple(j for j, m in enumerate(each) if m.reason)
    reasons = {m.reason for m in each}
    if "nan_scores" in reasons:
        return undefined("nan_scores", per_class=per_class, left_out=left_out)
    if len(left_out) == len(each):
        return undefined("one_class" if "one_class" in reasons else "no_cases", per_class=per_class, left_out=left_out)
    return Metric(float(np.mean([m.value for m in each if not m.reason])), "", per_class, left_out)
