"""Metrics that are functions of sums over cases, under many weightings of the patients: one matrix product a block."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from jaxtyping import Float, Int, Num
import numpy as np

from radnet_jax.evaluation.metrics.calibration import BINS, bin_of
from radnet_jax.evaluation.metrics.classification import known_entries


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A metric of one run as a function of the patients' weights.

    Attributes:
      values: counts [r g], whole numbers -> the metric of the cases repeated so often [r]; NaN where it is undefined.
        Fastest where the counts of a patient lie together in memory, as in the blocks of `draws.resample_counts`.
      jackknife: -> the metric without each of the patients [g].
    """

    values: Callable[[Int[np.ndarray, "r g"]], Float[np.ndarray, " r"]]
    jackknife: Callable[[], Float[np.ndarray, " g"]]

    def __call__(self, counts: Int[np.ndarray, "r g"]) -> Float[np.ndarray, " r"]:
        return self.values(counts)


def of_sums(
    terms: Num[np.ndarray, "n t"],
    finish: Callable[[Float[np.ndarray, "r t"]], Float[np.ndarray, " r"]],
    group: Int[np.ndarray, " n"],
    n_groups: int,
) -> Weighted:
    """The kernel of a metric that is a function of sums over cases, as accuracy is: one matrix product a block.

    Args:
      terms: what each case adds to each sum.
      finish: sums -> metric, row by row; NaN where it is undefined.
      group: index of each case's patient.
      n_groups: number of patients.
    """
    by_patient = np.stack([np.bincount(group, column, n_groups) for column in np.asarray(terms, np.float64).T], axis=1)

    def values(counts: np.ndarray) -> np.ndarray:
        return finish(counts.astype(np.float64) @ by_patient)

    return Weighted(values, lambda: finish(by_patient.sum(axis=0) - by_patient))


def accuracy(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    return _share(_guesses(scores, labels, label_mask, 1), group, n_groups)


def top_5(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    return _share(_guesses(scores, labels, label_mask, 5), group, n_groups)


def _guesses(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, guesses: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether a case's class is among its highest scores, the first of equals, and whether it is known."""
    scores, truth, known = known_entries(scores, labels, label_mask)
    own = np.take_along_axis(scores, truth.argmax(axis=1)[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < truth.argmax(axis=1)[:, None]))
    cases = np.all(known, axis=1)
    return (before.sum(axis=1) < guesses) & cases, cases


def balanced_accuracy(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    guess, truth = _one_hot_guess(scores, labels, label_mask)
    return _over_classes(guess & truth, truth, truth, group, n_groups)


def f1(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    guess, truth = _one_hot_guess(scores, labels, label_mask)
    return _over_classes(2 * (guess & truth), 1 * guess + truth, truth, group, n_groups)


def label_f1(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    called, truth = (scores >= 0.5) & known, truth & known
    return _over_classes(2 * (called & truth), 1 * called + truth, truth, group, n_groups)


def brier(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    cases = np.all(known, axis=1)
    return _share((np.where(cases, ((scores - truth) ** 2).sum(axis=1), 0.0), cases), group, n_groups)


def label_brier(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    return _over_classes(np.where(known, (scores - truth) ** 2, 0.0), known, known, group, n_groups)


def ece(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    right = np.equal(scores.argmax(axis=1), truth.argmax(axis=1))
    cases = np.asarray(known.all(axis=1))
    return _gaps(scores.max(axis=1)[:, None], right[:, None], cases[:, None], group, n_groups)


def label_ece(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None, group: np.ndarray, n_groups: int
) -> Weighted:
    scores, truth, known = known_entries(scores, labels, label_mask)
    return _gaps(scores, truth, known, group, n_groups)


def _gaps(
    probability: np.ndarray, happened: np.ndarray, known: np.ndarray, group: np.ndarray, n_groups: int
) -> Weighted:
    """The mean over labels of the calibration error: in each bin, the sum of what happened minus what was said."""
    n, k = probability.shape
    terms = np.zeros((n, k, BINS + 1))
    gap = np.where(known, happened - np.where(known, probability, 0.0), 0.0)
    np.put_along_axis(terms, bin_of(probability, BINS)[:, :, None], gap[:, :, None], axis=2)
    terms[:, :, BINS] = known

    def finish(sums: np.ndarray) -> np.ndarray:
        by_label = sums.reshape(len(sums), k, BINS + 1)
        return mean_of_defined(ratio(np.abs(by_label[:, :, :BINS]).sum(axis=2), by_label[:, :, BINS]).T)

    return of_sums(terms.reshape(n, k * (BINS + 1)), finish, group, n_groups)


def _one_hot_guess(
    scores: np.ndarray, labels: np.ndarray, label_mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The highest score, the first of equals, and the truth, each [n k] and False in cases that are not known."""
    scores, truth, known = known_entries(scores, labels, label_mask)
    cases = known.all(axis=1, keepdims=True)
    return (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]) & cases, truth & cases


def _share(terms: tuple[np.ndarray, np.ndarray], group: np.ndarray, n_groups: int) -> Weighted:
    """The sum of the first term by the sum of the second."""
    return of_sums(np.stack(terms, axis=1), lambda sums: ratio(sums[:, 0], sums[:, 1]), group, n_groups)


def _over_classes(
    part: np.ndarray, whole: np.ndarray, needed: np.ndarray, group: np.ndarray, n_groups: int
) -> Weighted:
    """The mean over classes of part by whole [n k]; a class with none of the needed cases is left out."""

    def finish(sums: np.ndarray) -> np.ndarray:
        part, whole, needed = np.split(sums, 3, axis=1)
        return mean_of_defined(np.where(needed > 0, ratio(part, whole), np.nan).T)

    return of_sums(np.concatenate([part, whole, needed], axis=1), finish, group, n_groups)


def mean_of_defined(values: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " r"]:
    """The mean over labels of those values that are not NaN."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
