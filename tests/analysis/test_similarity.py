"""Similarities of representations against other formulas of the same, and against other implementations."""

import itertools

from hypothesis import given, settings, strategies
import numpy as np
import pytest
from scipy.spatial import distance
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors

from radnet_jax.analysis import similarity
from radnet_jax.errors import UserError

ALL = {
    "linear_cka": similarity.linear_cka,
    "biased_linear_cka": lambda x, y: similarity.linear_cka(x, y, debiased=False),
    "rbf_cka": similarity.rbf_cka,
    "biased_rbf_cka": lambda x, y: similarity.rbf_cka(x, y, debiased=False),
    "minibatch": lambda x, y: similarity.minibatch_cka([(x[:20], y[:20]), (x[20:], y[20:])], kernel="linear"),
    "svcca": similarity.svcca,
    "pwcca": similarity.pwcca,
    "procrustes": similarity.procrustes,
    "rsa": similarity.rsa,
    "neighbours": lambda x, y: similarity.neighbour_overlap(x, y, k=5),
}
NOT_ROTATED = ("rsa", "pwcca")  # a correlation over features, and weights by feature, are of these very features


def pair(seed=0, n=40, d=6, e=5, shared=0.5):
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((n, d)) * (1 + np.arange(d)) + 3
    return x, shared * x[:, :e] ** 2 + draws.standard_normal((n, e))


def rotation(seed, d):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=10, deadline=None)
@given(seed=strategies.integers(0, 2**16), scale=strategies.floats(1e-3, 1e3), shift=strategies.floats(-20, 20))
def test_one_with_itself_and_blind_to_rotation_scale_and_shift(name, seed, scale, shift):
    measure = ALL[name]
    x, y = pair(seed)
    assert measure(x, x) == pytest.approx(1, abs=1e-9)
    turned = x if name in NOT_ROTATED else x @ rotation(seed + 1, 6)
    assert measure(scale * turned + shift, y) == pytest.approx(measure(x, y), abs=1e-7)


def hsic_of_quadruples(k, l):  # noqa: E741
    """Theorem 2 of Song et al. (2012): the U-statistic, with its kernel summed over all ordered quadruples."""
    n = len(k)
    total = 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def test_unbiased_hsic_is_the_mean_over_quadruples():
    x, y = pair(n=8)
    k, l = similarity.rbf_gram(x), similarity.linear_gram(y)  # noqa: E741
    assert similarity.unbiased_hsic(k, l) / (8 * 5) == pytest.approx(hsic_of_quadruples(k, l), rel=1e-10)


def test_biased_cka_with_centring_matrices():
    x, y = pair()
    centre = np.eye(40) - 1 / 40
    k, l = (m @ m.T for m in (x, y))  # noqa: E741

    def trace(a, b):
        return np.trace(a @ centre @ b @ centre)

    expected = trace(k, l) / np.sqrt(trace(k, k) * trace(l, l))
    assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(expected, rel=1e-10)


def test_rbf_with_the_kernels_of_scikit_learn():
    x, y = pair(n=31)
    grams = []
    for m in (x, y):
        distances = np.sort(distance.pdist(m, "sqeuclidean"))
        lower = np.sort(np.repeat(distances, 2))[len(distances) - 1]  # each pair stands twice in the whole matrix
        grams.append(rbf_kernel(m, gamma=1 / (2 * lower)))
    assert similarity.rbf_gram(x) == pytest.approx(grams[0], abs=1e-10)
    assert similarity.rbf_cka(x, y) == pytest.approx(similarity.cka(*grams), rel=1e-9)


def test_independent_representations():
    """About 0 when debiased; about d / (n + d) when not."""
    draws = np.random.default_rng(0)
    x, y = draws.standard_normal((2, 200, 200))
    for measure in (similarity.linear_cka, similarity.rbf_cka):
        assert abs(measure(x, y)) < 0.02
        assert measure(x, y, debiased=False) > 0.3
    batches = [draws.standard_normal((2, 20, 200)) for _ in range(50)]
    assert abs(similarity.minibatch_cka(batches, kernel="linear")) < 0.05
    assert similarity.procrustes(x, y) > 0.5  # no debiased form: many features look alike
    assert similarity.neighbour_overlap(x, y, k=10) == pytest.approx(10 / 199, abs=0.02)


def test_the_minibatch_estimator_converges_to_cka():
    x, y = pair(n=600)
    whole = similarity.linear_cka(x, y)
    batches = [(x[i : i + 30], y[i : i + 30]) for i in range(0, 600, 30)]
    assert similarity.minibatch_cka(batches, kernel="linear") == pytest.approx(whole, abs=0.03)
    one = similarity.minibatch_cka([(x, y)], kernel="linear")
    assert one == pytest.approx(whole, rel=1e-10)
    widths = tuple(similarity.median_bandwidth(similarity.squared_distances(m)) for m in (x, y))
    assert similarity.minibatch_cka([(x, y)], bandwidths=widths) == pytest.approx(similarity.rbf_cka(x, y), rel=1e-9)


def test_canonical_correlations_of_scikit_learn():
    x, y = pair(n=120)
    fitted = CCA(n_components=5, max_iter=5000, tol=1e-12).fit(x, y)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(m.T for m in fitted.transform(x, y)))]
    assert similarity.canonical_correlations(x, y) == pytest.approx(expected, abs=1e-4)
    assert similarity.svcca(x, y, share=1.0) == pytest.approx(np.mean(expected), abs=1e-4)


def test_svcca_leaves_small_directions_out():
    x, y = pair(n=100)
    noise = 1e-3 * np.random.default_rng(5).standard_normal((2, 100, 20))
    wide = [np.concatenate([m, extra], axis=1) for m, extra in zip((x, y), noise)]
    assert similarity.svcca(*wide) == pytest.approx(similarity.svcca(x, y), abs=1e-3)
    assert similarity.svcca(*wide, share=1.0) < similarity.svcca(x, y) - 0.05


def test_more_features_than_images():
    """The same directions from the Gram matrix: a rotation into more features changes nothing."""
    x, y = pair()
    draws = np.random.default_rng(0)
    wide = [m @ np.linalg.qr(draws.standard_normal((90, m.shape[1])))[0].T for m in (x, y)]
    assert similarity.svcca(*wide) == pytest.approx(similarity.svcca(x, y), abs=1e-6)
    assert similarity.procrustes(*wide) == pytest.approx(similarity.procrustes(x, y), abs=1e-6)
    assert similarity.effective_rank(wide[0]) == pytest.approx(similarity.effective_rank(x), rel=1e-6)


def test_pwcca_weighs_by_what_the_variates_account_for():
    """With whitened features a variate's weight is the sum of its absolute entries in the orthogonal basis."""
    draws = np.random.default_rng(2)
    q = np.linalg.qr(draws.standard_normal((50, 7)))[0]
    q = np.linalg.qr(np.concatenate([np.ones((50, 1)), q], axis=1))[0][:, 1:]  # columns of mean 0
    x = q[:, :2] * [10.0, 1.0]
    y = np.stack([0.9 * q[:, 0] + (1 - 0.81) ** 0.5 * q[:, 2], 0.2 * q[:, 1] + (1 - 0.04) ** 0.5 * q[:, 3]], axis=1)
    assert similarity.pwcca(x, y) == pytest.approx((10 * 0.9 + 1 * 0.2) / 11, rel=1e-9)
    turned = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    assert similarity.pwcca(turned, y, share=0.999) == pytest.approx(similarity.pwcca(x, y, share=0.999))
    assert similarity.pwcca(x * [0.1, 1], y, share=0.999) != pytest.approx(similarity.pwcca(x, y), rel=0.1)


def test_procrustes_of_scipy():
    x, _ = pair(d=5)
    y = x**2 + np.random.default_rng(1).standard_normal(x.shape)
    _, _, disparity = scipy_procrustes(x, y)
    assert similarity.procrustes(x, y) == pytest.approx((1 - disparity) ** 0.5, rel=1e-9)
    wide = np.random.default_rng(1).standard_normal((2, 20, 60))  # more features than images: the shorter way
    assert similarity.procrustes(*wide) == pytest.approx((1 - scipy_procrustes(*wide)[2]) ** 0.5, rel=1e-9)


def test_rsa_of_scipy():
    x, y = pair()
    dissimilar = [distance.pdist(m - m.mean(axis=0), "correlation") for m in (x, y)]
    assert similarity.rsa(x, y) == pytest.approx(spearmanr(*dissimilar).statistic, rel=1e-9)


def test_neighbours_of_scikit_learn():
    x, y = pair()
    near = []
    for m in (x, y):
        m = m - m.mean(axis=0)
        found = NearestNeighbors(n_neighbors=6, metric="cosine").fit(m).kneighbors(m, return_distance=False)
        near.append([set(row[1:]) for row in found])
    expected = np.mean([len(a & b) / 5 for a, b in zip(*near)])
    assert similarity.neighbour_overlap(x, y, k=5) == pytest.approx(expected)


def test_effective_rank():
    x = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 8)))[0]
    x = np.linalg.qr(x - x.mean(axis=0))[0]  # centred, with equal singular values
    assert similarity.effective_rank(x) == pytest.approx(8, rel=1e-6)
    assert similarity.effective_rank(x * [1, 0, 0, 0, 0, 0, 0, 0]) == pytest.approx(1, rel=1e-6)


def test_the_sphere():
    x, _ = pair()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(40), 2))
    distances = {(i, j): np.sum((unit[i] - unit[j]) ** 2) for i, j in pairs}
    assert similarity.uniformity(x) == pytest.approx(np.log(np.mean([np.exp(-2 * d) for d in distances.values()])))
    patients = np.arange(40) // 4
    own = [d for (i, j), d in distances.items() if patients[i] == patients[j]]
    assert similarity.alignment(x, patients) == pytest.approx(np.mean(own))
    assert np.isnan(similarity.alignment(x, np.arange(40)))
    assert similarity.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)


def test_directions():
    x = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 4)))[0]
    x = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt([50, 30, 15, 5])
    assert [similarity.directions(x, share=s) for s in (0.5, 0.6, 0.8, 0.9, 1.0)] == [1, 2, 2, 3, 4]
    assert similarity.directions(np.ones((5, 3))) == 0


def test_spectrum_of_scikit_learn():
    for x in (pair()[0], np.random.default_rng(0).standard_normal((20, 60))):  # both forms
        expected = PCA().fit(x).explained_variance_ratio_
        found = similarity.spectrum(x)
        assert found == pytest.approx(expected[: len(found)], rel=1e-6)
        assert expected[len(found) :].sum() < 1e-12
    assert len(similarity.spectrum(np.ones((5, 3)))) == 0


@pytest.mark.parametrize("name", [n for n in ALL if n != "neighbours"])
def test_a_constant_representation_is_undefined(name):
    x, _ = pair()
    assert np.isnan(ALL[name](np.full((40, 3), 0.1), x))


def test_what_is_refused():
    x, y = pair()
    few = x[:3], y[:3]
    for call, said in [
        (lambda: similarity.linear_cka(*few), "fewer images"),
        (lambda: similarity.minibatch_cka([few], kernel="linear"), "fewer images"),
        (lambda: similarity.minibatch_cka([], kernel="linear"), "fewer batches"),
        (lambda: similarity.minibatch_cka([(x, y)]), "bandwidths"),
        (lambda: similarity.minibatch_cka([(x, y)], kernel="cubic"), "unknown kernel"),
        (lambda: similarity.pwcca(x[:6], y[:6]), "more images than features"),
        (lambda: similarity.svcca(x, y, share=0.0), "share"),
        (lambda: similarity.linear_cka(x, y[:-1]), "different images"),
        (lambda: similarity.neighbour_overlap(x, y, k=39), "fewer images"),
        (lambda: similarity.rbf_cka(np.zeros((8193, 1)), np.zeros((8193, 1))), "mini-batch"),
    ]:
        with pytest.raises(UserError, match=said):
            call()
