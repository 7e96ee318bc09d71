"""K-means of a memory bank against NumPy and scikit-learn, on one device and on eight, and what it asks of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from radnet_jax import clustering, sharding
from tests.losses.test_sinkhorn import paper as sinkhorn

lloyd = jax.jit(clustering.lloyd, static_argnames=("iterations", "spherical"))
kmeans = jax.jit(clustering.kmeans, static_argnames=("k", "iterations", "spherical", "restarts"))
balanced = jax.jit(clustering.balanced, static_argnames=("k", "iterations", "epsilon", "sinkhorn_iterations"))
N = 2048


def numpy_lloyd(x, valid, centroids, iterations, spherical):
    """Lloyd's algorithm with its loops, float64."""
    x, c = x.astype(np.float64), centroids.astype(np.float64)
    for last in [False] * iterations + [True]:
        far = -x @ c.T if spherical else ((x[:, None] - c) ** 2).sum(-1)
        nearest = np.where(valid, far.argmin(1), -1)
        if last:
            return c, nearest
        for j in range(len(c)):
            if (nearest == j).any():
                c[j] = x[nearest == j].mean(0)
                c[j] /= np.linalg.norm(c[j]) if spherical else 1.0


def rows(n=N, d=8, groups=6, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, d))[rng.integers(groups, size=n)] + noise * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(clustering, "_MULTIPLE", 64)
    monkeypatch.setattr(clustering, "_SCORES", 64 * 10)


@pytest.mark.parametrize("spherical", [True, False])
def test_equals_numpy_with_rows_left_out(spherical):
    x = rows()
    valid = np.arange(N) % 5 > 0
    start = x[valid][:9]
    ours = lloyd(x, valid, start, iterations=6, spherical=spherical)
    centroids, assignments = numpy_lloyd(x, valid, start, 6, spherical)
    np.testing.assert_allclose(ours.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(ours.assignments, assignments)
    assert set(np.unique(ours.assignments[~valid])) == {-1}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("devices", [1, 8])
def test_totals_are_sums_by_cluster_in_either_form(monkeypatch, backend, dtype, devices):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, own = jnp.asarray(rows(), dtype), np.random.default_rng(1).integers(-1, 7, N)
    want = np.zeros((9, x.shape[1]))
    np.add.at(want, own[own >= 0], np.asarray(x, np.float64)[own >= 0])
    where = sharding.batch_sharding(sharding.make_mesh(devices))
    found = jax.jit(lambda x, own: clustering.totals(x, own, 9))(*jax.device_put((x, own), where))
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_equals_scikit_learn():
    x = rows()
    theirs = KMeans(9, init=x[:9], n_init=1, max_iter=7, tol=0, algorithm="lloyd").fit(x)
    ours = lloyd(x, np.ones(N, bool), x[:9], iterations=7, spherical=False)
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(ours.assignments, theirs.labels_)
    apart = clustering.distances(jnp.asarray(x), ours)
    assert np.sum(np.asarray(apart) ** 2) == pytest.approx(theirs.inertia_, rel=1e-5)


@pytest.mark.parametrize("find", ["kmeans", "balanced"])
def test_bits_of_bfloat16_are_clustered_as_the_numbers_they_stand_for(find):
    half = jnp.asarray(rows()).astype(jnp.bfloat16)
    bits, valid, key = jax.lax.bitcast_convert_type(half, jnp.uint16), np.arange(N) % 7 > 0, jax.random.key(0)
    options = dict(kmeans=dict(spherical=False), balanced=dict(epsilon=0.05, sinkhorn_iterations=3))[find]
    ours, wanted = (globals()[find](key, x, valid, k=9, iterations=4, **options) for x in (bits, half.astype("f4")))
    np.testing.assert_array_equal(ours.assignments, wanted.assignments)
    np.testing.assert_allclose(ours.centroids, wanted.centroids, atol=1e-5)
    apart, expected = clustering.distances(bits, ours), clustering.distances(half.astype("f4"), wanted)
    np.testing.assert_allclose(apart, expected, atol=1e-5)


def test_a_centroid_without_rows_stays():
    x = rows()
    start = np.concatenate([x[:3], -10 * np.ones((1, 8), np.float32)])
    ours = lloyd(x, np.ones(N, bool), start, iterations=3, spherical=False)
    np.testing.assert_array_equal(ours.centroids[3], start[3])
    assert not (np.asarray(ours.assignments) == 3).any()


def test_seeds_are_different_rows_that_are_valid():
    x = rows()
    valid = np.arange(N) < 20
    drawn = np.asarray(clustering.seeds(jax.random.key(0), jnp.asarray(x), jnp.asarray(valid), 20))
    assert {tuple(r) for r in drawn} == {tuple(r) for r in x[:20]}
    other = np.asarray(clustering.seeds(jax.random.key(1), jnp.asarray(x), jnp.asarray(valid), 20))
    assert (drawn != other).any()


def test_the_best_restart_is_kept():
    x, valid = rows(noise=0.1), np.ones(N, bool)

    def inertia(restarts, seed):
        found = kmeans(jax.random.key(seed), x, valid, k=6, iterations=5, spherical=False, restarts=restarts)
        return float(jnp.sum(clustering.distances(jnp.asarray(x), found) ** 2))

    alone = [inertia(1, seed) for seed in range(4)]
    best = [inertia(8, seed) for seed in range(4)]
    assert np.mean(best) < 0.9 * np.mean(alone)
    assert max(best) == pytest.approx(min(best), rel=0.3)


def test_balanced_assignments_are_those_of_the_whole_q():
    x = rows()
    valid = np.arange(N) % 5 > 0
    found = balanced(jax.random.key(0), x, valid, k=7, iterations=0, epsilon=0.05, sinkhorn_iterations=3)
    q = sinkhorn(x[valid] @ np.asarray(found.centroids).T, 0.05, 3)
    assert (np.asarray(found.assignments)[valid] == q.argmax(1)).mean() > 0.999
    assert set(np.unique(np.asarray(found.assignments)[~valid])) == {-1}


def test_balanced_clusters_are_of_more_equal_size():
    rng = np.random.default_rng(0)
    x = np.concatenate([rows(n=N - 64, groups=1, noise=0.3), rows(n=64, groups=6, seed=1)])[rng.permutation(N)]
    valid = np.ones(N, bool)
    key = jax.random.key(0)
    alike = balanced(key, x, valid, k=8, iterations=5, epsilon=0.05, sinkhorn_iterations=10)
    plain = kmeans(key, x, valid, k=8, iterations=5, spherical=True)
    spread = [np.asarray(clustering.sizes(c.assignments, 8)).std() for c in (alike, plain)]
    assert spread[0] < 0.5 * spread[1]
    np.testing.assert_allclose(np.linalg.norm(alike.centroids, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("function", ["kmeans", "spherical", "balanced"])
def test_eight_devices_give_the_clusters_of_one_and_gather_no_bank(function):
    x, valid = rows(n=8192, d=64), np.arange(8192) < 8000
    run = {
        "kmeans": lambda x, v: clustering.kmeans(jax.random.key(0), x, v, k=9, iterations=4, spherical=False),
        "spherical": lambda x, v: clustering.kmeans(
            jax.random.key(0), x, v, k=9, iterations=4, spherical=True, restarts=2
        ),
        "balanced": lambda x, v: clustering.balanced(
            jax.random.key(0), x, v, k=9, iterations=3, epsilon=0.05, sinkhorn_iterations=3
        ),
    }[function]
    mesh = sharding.make_mesh(8)
    divided = [jax.device_put(a, sharding.batch_sharding(mesh)) for a in (x, valid)]
    compiled = jax.jit(run).lower(*divided).compile()
    one, eight = jax.jit(run)(x, valid), compiled(*divided)
    np.testing.assert_allclose(eight.centroids, one.centroids, atol=1e-5)
    assert (np.asarray(eight.assignments) == np.asarray(one.assignments)).mean() > 0.999
    assert eight.assignments.sharding.is_equivalent_to(divided[1].sharding, 1)
    sent = sharding.collectives(compiled.as_text())
    assert "all-to-all" not in sent
    assert max(sent.get("all-gather", [0]) + sent.get("collective-permute", [0])) <= 4 * 8192  # a number a row
    assert max(sent["all-reduce"]) <= 4 * 9 * 64  # centroids


def test_memory_does_not_grow_with_the_rows():
    mesh = sharding.make_mesh(8)

    def temporary_bytes(n):
        shapes = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
            for shape, dtype in (((n, 64), jnp.float32), ((n,), jnp.bool))
        ]
        run = lambda x, v: clustering.kmeans(jax.random.key(0), x, v, k=10, iterations=4, spherical=True)  # noqa: E731
        return jax.jit(run).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(2**13), temporary_bytes(2**16)
    bank = (2**16 - 2**13) * 64 * 4 / 8
    assert large - small < 0.3 * bank  # some numbers a row; a copy of the bank would be 1
