"""Cross entropies against NumPy, with masks, weights and smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.utils.class_weight import compute_class_weight

from radnet_jax.losses.classification import (
    balanced_weights,
    log_odds,
    log_priors,
    mean_of_views,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 4)).astype(np.float32) * 3
CLASSES = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4, dtype=np.float32)[CLASSES]
FINDINGS = (RNG.uniform(size=(6, 4)) < 0.5).astype(np.float32)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_softmax_is_the_mean_of_the_counting_rows():
    mask = np.ones((6, 4))
    mask[1] = 0  # unlabelled
    valid = np.array([1, 1, 1, 0, 1, 1])
    rows = [i for i in range(6) if i not in (1, 3)]
    want = -np.mean([log_softmax(LOGITS)[i, CLASSES[i]] for i in rows])
    labels = ONE_HOT.copy()
    labels[1] = 0
    got = softmax_cross_entropy(LOGITS, labels, label_mask=mask, valid=valid)
    assert got == pytest.approx(want, abs=1e-6)


def test_softmax_smoothing_and_class_weights():
    # torch.nn.functional.cross_entropy(weight=, label_smoothing=): the formula of its documentation.
    weights, smoothing = np.array([1.0, 2.0, 0.5, 3.0]), 0.1
    log_p = log_softmax(LOGITS)
    target = (1 - smoothing) * ONE_HOT + smoothing / 4
    want = -(weights * target * log_p).sum() / weights[CLASSES].sum()
    got = softmax_cross_entropy(LOGITS, ONE_HOT, label_smoothing=smoothing, class_weights=weights)
    assert got == pytest.approx(want, abs=1e-6)


def test_sigmoid_is_the_mean_of_the_known_labels():
    mask = (RNG.uniform(size=(6, 4)) < 0.7).astype(np.int8)
    valid = np.array([1, 0, 1, 1, 1, 1])
    weights = np.array([1.0, 2.0, 0.5, 3.0])
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    each = -(FINDINGS * np.log(p) + (1 - FINDINGS) * np.log(1 - p))
    counts = mask * valid[:, None] * weights
    labels = np.where(mask, FINDINGS, np.nan)  # what an unknown label holds has no effect
    got = sigmoid_cross_entropy(LOGITS, labels, label_mask=mask, valid=valid, class_weights=weights)
    assert got == pytest.approx((each * counts).sum() / counts.sum(), abs=1e-6)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_nothing_known_is_zero_with_gradient_zero(loss):
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS), FINDINGS, label_mask=np.zeros((6, 4)))
    assert value == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_large_bfloat16_logits_stay_finite(loss):
    logits = jnp.asarray([[1e4, -1e4], [-1e4, 1e4]], jnp.bfloat16)
    value = loss(logits, np.array([[0, 1], [0, 1]]))
    assert value.dtype == jnp.float32
    assert np.isfinite(value)


def test_outcomes_of_findings_are_weighed_apart():
    outcomes = np.array([[1.0, 0.5, 2.0, 1.0], [3.0, 1.0, 0.25, 5.0]])
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    each = -(FINDINGS * np.log(p) + (1 - FINDINGS) * np.log(1 - p))
    weights = np.where(FINDINGS > 0, outcomes[1], outcomes[0])
    got = sigmoid_cross_entropy(LOGITS, FINDINGS, outcome_weights=outcomes)
    assert got == pytest.approx((each * weights).sum() / weights.sum(), abs=1e-6)


def test_balanced_weights_are_scikit_learns():
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=CLASSES)
    np.testing.assert_allclose(balanced_weights(np.bincount(CLASSES)), theirs)


def test_priors_are_logs_of_shares_and_odds():
    np.testing.assert_allclose(np.exp(log_priors(np.array([1, 3, 4]))), [0.125, 0.375, 0.5])
    np.testing.assert_allclose(np.exp(log_odds(np.array([1, 3]), np.array([4, 4]))), [1 / 3, 3])


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_views_are_averaged_as_probabilities(multi_label, scale):
    logits = RNG.standard_normal((5, 10, 3)).astype(np.float32) * scale
    logits[0, :, 0] = 200  # every view is sure
    probabilities = expit if multi_label else (lambda x: softmax(x, axis=-1))
    got = np.asarray(mean_of_views(logits, multi_label=multi_label))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(probabilities(got), probabilities(logits).mean(axis=1), atol=1e-6)
