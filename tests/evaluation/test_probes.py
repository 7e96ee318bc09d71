"""Probes of frozen features against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from radnet_jax.errors import UserError
from radnet_jax.evaluation.probes import fit_linear_probes, knn_scores


def data(n=300, d=12, k=4, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=n)
    features = rng.normal(size=(n, d)) * rng.uniform(0.1, 30, d) + 5 * rng.normal(size=(k, d))[label] + 100
    return features, np.eye(k)[label], label


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_softmax_probe_is_scikit_learns(strength):
    features, labels, label = data()
    (probe,) = fit_linear_probes(features, labels, np.ones_like(labels), multi_label=False, strengths=(strength,))
    x = StandardScaler().fit_transform(features)
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=5000).fit(x, label)
    np.testing.assert_allclose(probe.scores(features), theirs.predict_proba(x), atol=2e-4)


def test_multi_label_probe_is_scikit_learns_one_finding_at_a_time():
    features, labels, _ = data()
    mask = np.ones_like(labels)
    mask[:50, 1] = 0  # unknown findings have no part in the fit
    strength = 1e-2
    (probe,) = fit_linear_probes(features, labels, mask, multi_label=True, strengths=(strength,))
    x = StandardScaler().fit_transform(features)
    for k in range(labels.shape[1]):
        known = mask[:, k] > 0
        # Ours divides by all known entries, theirs sums over the cases of this finding.
        theirs = LogisticRegression(C=1 / (strength * mask.sum()), tol=1e-8, max_iter=5000)
        theirs.fit(x[known], labels[known, k])
        np.testing.assert_allclose(probe.scores(features)[:, k], theirs.predict_proba(x)[:, 1], atol=2e-4)


def test_a_weaker_penalty_fits_train_better():
    features, labels, _ = data()
    probes = fit_linear_probes(features, labels, np.ones_like(labels), multi_label=False, strengths=(1.0, 1e-4, 1e-2))
    losses = [-np.log(p.scores(features)[labels > 0]).mean() for p in probes]
    assert losses[0] > losses[2] > losses[1]


def test_unlabelled_examples_and_constant_features_change_nothing():
    features, labels, _ = data()
    mask = np.ones_like(labels)
    more = np.concatenate([features, np.full((20, features.shape[1]), 1e6)])
    more = np.concatenate([more, np.full((len(more), 1), 3.0)], axis=1)
    unlabelled = np.concatenate([labels, np.zeros((20, 4))]), np.concatenate([mask, np.zeros((20, 4))])
    (a,) = fit_linear_probes(features, labels, mask, multi_label=False, strengths=(0.1,))
    (b,) = fit_linear_probes(more, *unlabelled, multi_label=False, strengths=(0.1,))
    np.testing.assert_allclose(a.scores(features), b.scores(more[: len(features)]), atol=1e-6)


def test_no_labelled_example_is_refused():
    with pytest.raises(UserError, match="no labelled example"):
        fit_linear_probes(np.ones((5, 2)), np.zeros((5, 2)), np.zeros((5, 2)), multi_label=False, strengths=(1.0,))


def test_features_that_are_not_finite_are_refused():
    features, labels, _ = data(20)
    features[3, 2] = np.nan
    with pytest.raises(UserError, match="not finite"):
        fit_linear_probes(features, labels, np.ones_like(labels), multi_label=False, strengths=(1.0,))


def test_neighbours_are_scikit_learns():
    features, labels, label = data()
    queries = data(seed=1)[0]

    def weights(distance):
        return np.exp((1 - distance) / 0.07)

    theirs = KNeighborsClassifier(n_neighbors=20, metric="cosine", weights=weights, algorithm="brute")
    theirs.fit(features, label)
    ours = knn_scores(features, labels, queries, neighbours=20, temperature=0.07)
    np.testing.assert_allclose(ours, theirs.predict_proba(queries), atol=1e-9)


def test_fewer_examples_than_neighbours_are_refused():
    with pytest.raises(UserError, match="fewer training examples"):
        knn_scores(np.ones((5, 2)), np.ones((5, 1)), np.ones((1, 2)), neighbours=6)
