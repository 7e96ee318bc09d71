"""Metrics against scikit-learn, with ties, masks, one class and nothing at all."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from radnet_jax.errors import UserError
from radnet_jax.evaluation import metrics
from radnet_jax.evaluation.checks import TASK_KINDS
from radnet_jax.evaluation.metrics import METRICS, Metric, undefined
from radnet_jax.evaluation.metrics.classification import accuracy, auroc


def _random(seed, n, k, levels):
    """Scores with many ties, findings, and a mask."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, k)) / levels
    return scores, (rng.random((n, k)) < 0.4).astype(int), (rng.random((n, k)) < 0.8).astype(int)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 4), st.sampled_from([2, 5, 1000]))
def test_auroc_is_that_of_scikit_learn(seed, n, k, levels):
    scores, labels, mask = _random(seed, n, k, levels)
    got = auroc(scores, labels, mask)
    expected, left_out = [], []
    for j in range(k):
        known = mask[:, j] == 1
        if len(set(labels[known, j])) == 2:
            expected.append(roc_auc_score(labels[known, j], scores[known, j]))
        else:
            left_out.append(j)
    assert got.left_out == tuple(left_out)
    if expected:
        np.testing.assert_allclose(got.value, np.mean(expected), rtol=0, atol=1e-12)
        assert got.reason == ""
    else:
        assert math.isnan(got.value)
        assert got.reason in ("one_class", "no_cases")


def test_auroc_of_one_hot_labels_is_the_one_vs_rest_macro_mean():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 200)
    truth = rng.integers(0, 4, 200)
    expected = roc_auc_score(truth, scores, multi_class="ovr", average="macro")
    np.testing.assert_allclose(auroc(scores, np.eye(4)[truth]).value, expected, rtol=0, atol=1e-12)
    two = scores[:, :2] / scores[:, :2].sum(axis=1, keepdims=True)
    binary = roc_auc_score(truth > 1, two[:, 1])
    np.testing.assert_allclose(auroc(two, np.eye(2)[(truth > 1).astype(int)]).value, binary, rtol=0, atol=1e-12)


def test_auroc_counts_ties_half():
    labels = np.array([[0], [1], [0], [1]])
    assert auroc(np.zeros((4, 1)), labels).value == 0.5
    assert auroc(np.array([[0.1], [0.5], [0.5], [0.9]]), labels).value == (3 + 0.5) / 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(2, 6))
def test_accuracy_is_that_of_scikit_learn(seed, n, k):
    rng = np.random.default_rng(seed)
    scores, truth, known = rng.random((n, k)), rng.integers(0, k, n), rng.random(n) < 0.7
    got = accuracy(scores, np.eye(k)[truth], np.repeat(known[:, None], k, axis=1))
    if known.any():
        assert got.value == accuracy_score(truth[known], scores[known].argmax(axis=1))
    else:
        assert math.isnan(got.value)
        assert got.reason == "no_cases"


def test_undefined_has_a_reason_and_is_never_zero():
    one_hot = np.eye(3)[[0, 1, 2]]
    scores = np.full((3, 3), 1 / 3)
    broken = scores.copy()
    broken[1, 1] = np.nan
    nothing = np.zeros((3, 3))
    cases = [
        (accuracy(broken, one_hot), "nan_scores"),
        (auroc(broken, one_hot), "nan_scores"),
        (accuracy(scores, one_hot, nothing), "no_cases"),
        (auroc(scores, one_hot, nothing), "no_cases"),
        (accuracy(scores, np.ones((3, 3))), "not_single_label"),
        (accuracy(scores[:, :1], one_hot[:, :1]), "not_single_label"),
        (auroc(scores[:1], one_hot[:1]), "one_class"),
        (accuracy(np.zeros((0, 3)), np.zeros((0, 3))), "no_cases"),
        (auroc(np.zeros((0, 3)), np.zeros((0, 3))), "no_cases"),
    ]
    for metric, reason in cases:
        assert math.isnan(metric.value)
        assert metric.reason == reason


def test_nan_scores_of_unlabelled_cases_do_not_matter():
    scores = np.array([[0.2, 0.8], [np.nan, np.nan], [0.7, 0.3]])
    labels = np.array([[0, 1], [0, 0], [1, 0]])
    mask = np.array([[1, 1], [0, 0], [1, 1]])
    assert accuracy(scores, labels, mask).value == 1.0
    assert auroc(scores, labels, mask).value == 1.0


def test_a_label_of_one_class_is_left_out_and_named():
    scores, labels = np.random.default_rng(1).random((20, 3)), np.zeros((20, 3), int)
    labels[:10, 0] = labels[5:9, 2] = 1
    got = auroc(scores, labels)
    assert got.left_out == (1,)
    np.testing.assert_allclose(got.value, (got.per_class[0] + got.per_class[2]) / 2)
    assert got.to_json()["left_out"] == [1]


def test_shapes_names_and_reasons_are_checked():
    with pytest.raises(UserError, match=r"must be equal \[n k\]"):
        accuracy(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(UserError, match="labels out of range; got 2; expected 0 or 1 where the mask is 1"):
        auroc(np.zeros((2, 1)), np.array([[1], [2]]))
    assert auroc(np.array([[0.0], [1], [3]]), [[0], [1], [-1]], [[1], [1], [0]]).value == 1  # unknown: anything goes
    with pytest.raises(UserError, match='did you mean "auroc"'):
        METRICS.get("aurok")
    assert {"accuracy", "auroc"} <= set(METRICS.names())
    with pytest.raises(ValueError, match="unknown reason"):
        undefined("because")
    with pytest.raises(ValueError, match="number or has a reason"):
        Metric(math.nan)


def test_a_metric_says_which_task_kinds_it_is_for():
    assert metrics.task_kinds("accuracy") == frozenset({"single_label"})
    assert metrics.task_kinds("auroc") == frozenset({"single_label", "multi_label"})
    for name in METRICS.names():
        assert metrics.task_kinds(name)
        assert metrics.task_kinds(name) <= set(TASK_KINDS)
    with pytest.raises(UserError, match='did you mean "accuracy"'):
        metrics.task_kinds("acuracy")


def test_a_metric_without_task_kinds_is_refused(monkeypatch):
    monkeypatch.setitem(METRICS._factories, "bare", lambda scores, labels, label_mask: Metric(0.5))
    with pytest.raises(ValueError, match="'bare' declares no task_kinds"):
        metrics.task_kinds("bare")


SINGLE = tuple(n for n in METRICS.names() if metrics.task_kinds(n) == {"single_label"})


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from(METRICS.names()))
def test_a_case_that_does_not_enter_can_go(seed, n, name):
    """Leaving out what does not enter changes nothing; so does any score of it."""
    rng = np.random.default_rng(seed)
    k = 6 if name == "top_5" else 3
    scores, labels, mask = _random(seed, n, k, 5)
    if name in SINGLE:
        labels, mask = np.eye(k)[rng.integers(0, k, n)], np.repeat(mask[:, :1], k, axis=1)
    enter = metrics.entering(name, labels, mask)
    whole = METRICS.get(name)(scores, labels, mask)
    # By nnU-Net's convention cases may enter and one region without any leaves the whole undefined.
    partial = name == "dice_nnunet" and whole.reason == "region_undefined"
    assert enter.any() == (whole.reason == "" or partial)
    if enter.any():
        without = METRICS.get(name)(scores[enter], labels[enter], mask[enter])
        again = METRICS.get(name)(np.where(enter[:, None], scores, rng.random(scores.shape)), labels, mask)
        for other in (without, again):
            assert (other.value, other.reason) == (pytest.approx(whole.value, nan_ok=partial), whole.reason)


def test_which_cases_enter():
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    mask = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])  # the second label has one class
    np.testing.assert_array_equal(metrics.entering("auroc", labels, mask), [True, True, False, False])
    np.testing.assert_array_equal(metrics.entering("accuracy", labels, mask), [True, False, False, False])
    np.testing.assert_array_equal(metrics.entering("accuracy", labels), [True] * 4)
