"""The ridge path against scikit-learn, and the penalty that stands for it in a logistic regression."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ridge
from radnet_jax.evaluation.probes import Linear, fit_linear_probes
from radnet_jax.evaluation.ridge import fit_ridge_path, logistic_strength, squashed

STRENGTHS = (1e-4, 1e-1, 10.0)


def data(n=300, d=12, k=4, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=n)
    features = rng.normal(size=(n, d)) * rng.uniform(0.1, 30, d) + 2 * rng.normal(size=(k, d))[label] + 1000
    return features.astype(np.float32), np.eye(k)[label], label


def test_one_label_a_case_is_scikit_learns_ridge_classifier(monkeypatch):
    monkeypatch.setattr(ridge, "_ROWS", 64)  # several parts
    features, labels, label = data()
    path = fit_ridge_path(features, labels, np.ones_like(labels))
    x = StandardScaler().fit_transform(features.astype(np.float64))
    for strength, scores in zip(STRENGTHS, path.scores(features, STRENGTHS), strict=True):
        theirs = RidgeClassifier(alpha=strength * len(x)).fit(x, label)
        np.testing.assert_allclose(scores, theirs.decision_function(x), atol=2e-4)
        assert (scores.argmax(axis=1) == theirs.predict(x)).mean() > 0.99


def test_findings_are_fitted_where_they_are_known():
    features, labels, _ = data()
    mask = np.ones_like(labels)
    mask[:50, 1] = 0
    mask[200:, 2] = 0
    mask[:, 3] = 0  # nobody knows
    got = next(fit_ridge_path(features, np.where(mask > 0, labels, 7), mask).scores(features, (0.1,)))
    for k in range(3):
        rows = mask[:, k] > 0
        scaler = StandardScaler().fit(features[rows].astype(np.float64))
        theirs = Ridge(alpha=0.1 * rows.sum()).fit(scaler.transform(features[rows]), 2 * labels[rows, k] - 1)
        np.testing.assert_allclose(got[:, k], theirs.predict(scaler.transform(features)), atol=2e-4)
    assert np.unique(got[:, 3]).size == 1


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_left_behind_gives_the_same_scores(tmp_path, multi_label):
    features, labels, _ = data()
    mask = np.ones_like(labels)
    mask[:50, 1], mask[:, 3] = 0, 0
    path = fit_ridge_path(features, labels, mask)
    path.folded(0.1, multi_label=multi_label).save(tmp_path / "ridge.npz")
    want = squashed(next(path.scores(features, (0.1,))), multi_label=multi_label)
    np.testing.assert_allclose(Linear.load(tmp_path / "ridge.npz").scores(features), want, atol=2e-4)
    (fitted,) = fit_linear_probes(features, labels, mask, multi_label=multi_label, strengths=(0.1,))
    np.testing.assert_allclose(fitted.folded().scores(features), fitted.scores(features), atol=1e-6)


def test_constant_features_and_unlabelled_cases_change_nothing():
    features, labels, _ = data()
    want = list(fit_ridge_path(features, labels, np.ones_like(labels)).scores(features, STRENGTHS))
    more = np.concatenate([features, np.full((20, features.shape[1]), 1e5, np.float32)])
    more = np.concatenate([more, np.full((len(more), 1), 3.0, np.float32)], axis=1)
    known = np.concatenate([np.ones_like(labels), np.zeros((20, 4))])
    got = fit_ridge_path(more, np.concatenate([labels, np.zeros((20, 4))]), known).scores(more, STRENGTHS)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(a, b[: len(a)], atol=2e-4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_logistic_regression_of_that_strength_shrinks_as_much(multi_label):
    """For a weak signal both are linear in it: what is left of the unpenalised solution must be the same share."""
    rng = np.random.default_rng(1)
    label = rng.integers(2, size=4000)
    x = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 0.05 * label[:, None]
    labels = np.eye(2)[label]
    mask = np.ones_like(labels)
    path = fit_ridge_path(x, labels, mask)
    (free, held) = path.scores(x, (1e-6, 0.1))
    strengths = [logistic_strength(s, labels, mask, multi_label=multi_label) for s in (1e-6, 0.1)]
    probes = fit_linear_probes(x, labels, mask, multi_label=multi_label, strengths=tuple(strengths))
    scores = [logit(p.scores(x)[:, 1]) for p in probes]
    want = np.std(held[:, 1]) / np.std(free[:, 1])
    assert 0.2 < want < 0.9
    assert np.std(scores[1]) / np.std(scores[0]) == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"), [(lambda x, m: (x, 0 * m), "no labelled"), (lambda x, m: (x * np.nan, m), "not finite")]
)
def test_refusals(change, message):
    features, labels, _ = data()
    with pytest.raises(UserError, match=message):
        fit_ridge_path(*(lambda x, m: (x, labels, m))(*change(features, np.ones_like(labels))))
