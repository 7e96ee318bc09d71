"""Cross entropies against NumPy, with masks, weights and smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy

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
