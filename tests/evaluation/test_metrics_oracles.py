"""The other classification metrics against scikit-learn and their formulas, with ties, masks and absent classes."""

import math
import warnings

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn import metrics as sk

from radnet_jax.errors import UserError
from radnet_jax.evaluation import metrics
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.metrics.calibration import brier, calibration_error, ece, label_brier, label_ece
from radnet_jax.evaluation.metrics.classification import accuracy, auprc, top_5, top_k
from radnet_jax.evaluation.metrics.decisions import balanced_accuracy, f1, f1_at, label_f1, sensitivity_at

EXACT = {"rtol": 0, "atol": 1e-12}
SEEDS, SIZES = st.integers(0, 10**6), st.integers(1, 40)
LEVELS = st.sampled_from([2, 5, 1000])  # few levels: many ties


def _findings(seed, n, levels, k=3):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (n, k)) / levels
    return scores, (rng.random((n, k)) < 0.3).astype(int), (rng.random((n, k)) < 0.8).astype(int)


def _classes(seed, n, levels, k=4):
    """Scores, classes, one-hot rows, which cases are known, and the mask."""
    rng = np.random.default_rng(seed)
    classes, known = rng.integers(0, k, n), rng.random(n) < 0.7
    scores = rng.integers(1, levels + 1, (n, k)).astype(float)
    return scores / scores.sum(axis=1, keepdims=True), classes, known, np.repeat(known[:, None], k, axis=1)


def _by_label(got, scores, labels, mask, oracle, defined):
    """The mean over labels of an oracle of the known cases, over labels that are defined."""
    each = []
    for j in range(labels.shape[1]):
        known = mask[:, j] == 1
        y, s = labels[known, j], scores[known, j]
        each.append(oracle(y, s) if defined(y) else math.nan)
    np.testing.assert_allclose(got.per_class, each, **EXACT)
    assert got.left_out == tuple(np.flatnonzero(np.isnan(each)))
    if np.isnan(each).all():
        assert math.isnan(got.value)
        assert got.reason in ("one_class", "no_cases", "no_positive")
    else:
        np.testing.assert_allclose(got.value, np.nanmean(each), **EXACT)
        assert got.reason == ""


def _both(y):
    return len(set(y)) == 2


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, LEVELS)
def test_auprc_is_average_precision(seed, n, levels):
    data = _findings(seed, n, levels)
    _by_label(auprc(*data), *data, sk.average_precision_score, _both)


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, LEVELS, st.sampled_from([0, 0.5, 0.8, 0.95, 1]))
def test_sensitivity_at_specificity_is_the_best_threshold_that_has_it(seed, n, levels, specificity):
    def oracle(y, s):
        best = 0.0
        for threshold in [*s, math.inf]:
            called = s >= threshold
            if (~called[y == 0]).sum() / (y == 0).sum() >= specificity:
                best = max(best, called[y == 1].sum() / (y == 1).sum())
        false, true, _ = sk.roc_curve(y, s, drop_intermediate=False)
        assert best == pytest.approx(true[false <= 1 - specificity + 1e-9].max())
        return best

    data = _findings(seed, n, levels)
    _by_label(sensitivity_at(*data, specificity=specificity), *data, oracle, _both)


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, LEVELS, st.sampled_from([0.0, 0.3, 0.5]))
def test_f1_of_findings_is_scikit_learns(seed, n, levels, threshold):
    data = _findings(seed, n, levels)
    _by_label(f1_at(*data, threshold=threshold), *data, lambda y, s: sk.f1_score(y, s >= threshold), np.any)


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, LEVELS)
def test_brier_of_findings_is_scikit_learns(seed, n, levels):
    data = _findings(seed, n, levels)
    _by_label(
        label_brier(*data),
        *data,
        lambda y, s: sk.brier_score_loss(y, s, pos_label=1) if _both(y) else np.mean((s - y) ** 2),
        len,
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, LEVELS)
def test_metrics_of_classes_are_scikit_learns(seed, n, levels):
    scores, classes, known, mask = _classes(seed, n, levels)
    k = scores.shape[1]
    args = (scores, np.eye(k)[classes], mask)
    if not known.any():
        for metric in (balanced_accuracy, f1, brier, ece):
            assert metric(*args).reason == "no_cases"
        return
    y, s = classes[known], scores[known]
    guess = s.argmax(axis=1)
    present = np.unique(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of guesses that are no class of the truth
        expected = sk.balanced_accuracy_score(y, guess)
    got = balanced_accuracy(*args)
    np.testing.assert_allclose(got.value, expected, **EXACT)
    assert got.left_out == tuple(sorted(set(range(k)) - set(present)))
    got = f1(*args)
    np.testing.assert_allclose(got.value, sk.f1_score(y, guess, labels=present, average="macro"), **EXACT)
    assert got.left_out == tuple(sorted(set(range(k)) - set(present)))
    two = sk.brier_score_loss(y, s, labels=range(k), scale_by_half=False)
    np.testing.assert_allclose(brier(*args).value, two, **EXACT)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 6))
def test_top_k_is_scikit_learns_without_ties(seed, n, guesses):
    rng = np.random.default_rng(seed)
    scores, classes = rng.random((n, 7)), rng.integers(0, 7, n)
    expected = sk.top_k_accuracy_score(classes, scores, k=guesses, labels=range(7))
    got = top_k(scores, np.eye(7)[classes], guesses=guesses)
    np.testing.assert_allclose(got.value, expected, **EXACT)
    if guesses == 5:
        assert top_5(scores, np.eye(7)[classes]) == got


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 3))
def test_top_k_with_ties_takes_the_first_classes(seed, n, guesses):
    scores, classes, _, _ = _classes(seed, n, 2)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :guesses]
    expected = np.mean((first == classes[:, None]).any(axis=1))
    assert top_k(scores, np.eye(4)[classes], guesses=guesses).value == expected
    assert top_k(scores, np.eye(4)[classes], guesses=1) == accuracy(scores, np.eye(4)[classes])


def _ece(confidence, right, bins):
    """Equation 3 of Guo et al. as it stands."""
    total = 0.0
    for m in range(1, bins + 1):
        low = -1 if m == 1 else (m - 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= m / bins]
        if inside:
            total += len(inside) / len(confidence) * abs(np.mean(right[inside]) - np.mean(confidence[inside]))
    return total


@settings(max_examples=60, deadline=None)
@given(SEEDS, SIZES, st.sampled_from([2, 5, 15, 1000]))
def test_calibration_errors_are_the_papers(seed, n, levels):
    data = _findings(seed, n, levels)  # levels of 15: every probability stands on an edge
    _by_label(label_ece(*data), *data, lambda y, s: _ece(s, y, 15), len)
    scores, classes, known, mask = _classes(seed, n, levels)
    if known.any():
        y, s = classes[known], scores[known]
        expected = _ece(s.max(axis=1), (s.argmax(axis=1) == y).astype(float), 15)
        np.testing.assert_allclose(ece(scores, np.eye(4)[classes], mask).value, expected, **EXACT)


def test_calibration_error_is_torchmetrics():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional")
    rng = np.random.default_rng(0)
    scores, classes = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    theirs = functional.calibration_error(
        torch.from_numpy(scores), torch.from_numpy(classes), task="multiclass", num_classes=4, n_bins=15
    )
    assert ece(scores, np.eye(4)[classes]).value == pytest.approx(float(theirs), abs=1e-6)  # theirs rounds to float32


def test_known_values():
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    labels = np.eye(2)[[0, 0, 0, 1]]
    assert accuracy(scores, labels).value == 0.75
    assert balanced_accuracy(scores, labels).value == pytest.approx((2 / 3 + 1) / 2)
    assert f1(scores, labels).value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert brier(scores, labels).value == pytest.approx(2 * (0.01 + 0.16 + 0.49 + 0.04) / 4)
    assert calibration_error([0.2, 0.2, 0.8], [0, 1, 1], bins=2).value == pytest.approx((0.6 + 0.2) / 3)


def test_undefined_has_a_reason():
    one_hot, scores = np.eye(3)[[0, 1, 2]], np.full((3, 3), 1 / 3)
    broken = scores.copy()
    broken[1, 1] = np.nan
    # Of masks the scores are Dice, and NaN says that there was nothing to find.
    for name in [n for n in METRICS.names() if metrics.task_kinds(n) != {"segmentation"}]:
        metric = METRICS.get(name)
        assert metric(broken, one_hot).reason == "nan_scores", name
        assert metric(scores, one_hot, np.zeros((3, 3))).reason == "no_cases", name
        assert metric(np.zeros((0, 3)), np.zeros((0, 3))).reason == "no_cases", name
        if metrics.task_kinds(name) == {"single_label"}:
            assert metric(scores, np.ones((3, 3))).reason == "not_single_label", name
    for metric in (brier, ece, label_brier, label_ece):
        assert metric(np.array([[1.5, -0.5]]), np.eye(2)[[0]]).reason == "not_probabilities"
    assert top_5(scores, one_hot).reason == "few_classes"
    assert auprc(scores[:1], one_hot[:1]).reason == "one_class"
    assert label_f1(scores, np.zeros((3, 3))).reason == "no_positive"


def test_a_score_that_is_wrong_everywhere_is_zero_and_defined():
    wrong, labels = np.eye(2)[[1, 0]], np.eye(2)[[0, 1]]
    for metric in (accuracy, balanced_accuracy, f1, label_f1):
        assert metric(wrong, labels).value == 0
        assert metric(wrong, labels).reason == ""
    assert sensitivity_at(wrong, labels, specificity=0.9).value == 0


def test_arguments_are_checked():
    for call, message in [
        (lambda: top_k(np.eye(2), np.eye(2), guesses=0), "at least one guess; got 0"),
        (lambda: sensitivity_at(np.eye(2), np.eye(2), specificity=95), "specificity out of range; got 95"),
        (lambda: calibration_error(np.ones(1), np.ones(1), bins=0), "at least one bin"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


def test_only_errors_are_better_when_lower():
    assert {n for n in METRICS.names() if not metrics.higher_is_better(n)} == {
        "brier",
        "ece",
        "label_brier",
        "label_ece",
    }
