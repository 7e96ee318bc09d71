"""The mini-batch estimator on devices: against its formula, and against CKA of all images at once."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.analysis import minibatch, similarity
from radnet_jax.analysis.minibatch import MinibatchCka, map_gram

N, BATCH = 44, 12


def maps(seed=0, n=N):
    """Two layers of three networks: [n h w d], something in common, far from 0."""
    draws = np.random.default_rng(seed)
    cause = draws.standard_normal((n, 3))
    return [
        [
            np.float32(
                np.tanh(cause @ draws.standard_normal((3, h * h * d))).reshape(n, h, h, d)
                + 0.5 * draws.standard_normal((n, h, h, d))
                + 20
            )
            for h, d in ((4, 3), (2, 6))
        ]
        for _ in range(3)
    ]


def pooled(x):
    return x.mean(axis=(1, 2))


def streamed(nets, pairs, batches):
    """`batches`: of record numbers and whether they count."""
    sums = MinibatchCka(pairs)
    for rows, valid in batches:
        valid = jnp.asarray(valid, jnp.float32)
        taken = [[jnp.asarray(x[rows]) for x in net] for net in nets]
        sums.add(
            [[pooled(x) for x in net] for net in taken], [[map_gram(x, valid) for x in net] for net in taken], valid
        )
    return sums.values()


def test_is_the_estimator_of_its_formula():
    """Batches of 12, 12, 12 and 8; the last is filled up with record 0."""
    nets, pairs = maps(), [(0, 1), (1, 2)]
    firsts = range(0, N, BATCH)
    rows = [np.arange(first, first + BATCH) for first in firsts]
    found = streamed(nets, pairs, [(np.where(r < N, r, 0), r < N) for r in rows])
    assert {kind: v.shape for kind, v in found.items()} == dict.fromkeys(minibatch.KINDS, (2, 2))
    for p, (i, j) in enumerate(pairs):
        for layer in range(2):
            x, y = (nets[k][layer].astype(np.float64) for k in (i, j))
            parts = [r[r < N] for r in rows]
            flat = [(x[r].reshape(len(r), -1), y[r].reshape(len(r), -1)) for r in parts]
            assert found["maps"][p, layer] == pytest.approx(similarity.minibatch_cka(flat, kernel="linear"), abs=1e-5)
            means = [(pooled(x[r]), pooled(y[r])) for r in parts]
            widths = tuple(similarity.median_bandwidth(similarity.squared_distances(m)) for m in means[0])
            expected = similarity.minibatch_cka(means, bandwidths=widths)
            assert found["rbf"][p, layer] == pytest.approx(expected, abs=1e-5)


def test_the_mean_over_all_batches_is_the_value_of_all_images():
    """HSIC_1 is a U-statistic of four images: its mean over all batches of four is that of the whole, exactly."""
    nets = maps(n=8)
    every = [(np.array(rows), np.ones(4)) for rows in itertools.combinations(range(8), 4)]
    found = streamed(nets, [(0, 1)], every)["maps"][0]
    flat = [[x.reshape(8, -1) for x in net] for net in nets]
    expected = [similarity.linear_cka(x, y) for x, y in zip(flat[0], flat[1])]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(streamed(nets, [(0, 1)], every[:10])["maps"][0], abs=1e-3)


def test_independent_maps_have_none():
    draws = np.random.default_rng(1)
    nets = [[np.float32(draws.standard_normal((400, 4, 4, 8)))] for _ in range(2)]
    found = streamed(nets, [(0, 1), (0, 0)], [(np.arange(i, i + 40), np.ones(40)) for i in range(0, 400, 40)])
    assert np.abs([found[kind][0, 0] for kind in minibatch.KINDS]).max() < 0.03
    assert [found[kind][1, 0] for kind in minibatch.KINDS] == pytest.approx([1, 1], abs=1e-6)


def test_constant_layers_are_undefined_and_a_short_batch_is_left_out():
    nets = maps()
    nets[1][0] = np.full_like(nets[1][0], 0.1)
    batches = [(np.arange(20), np.ones(20)), (np.arange(20), np.arange(20) < 3)]
    found = streamed(nets, [(0, 1)], batches)
    for kind in minibatch.KINDS:
        assert np.isnan(found[kind][0, 0])
        assert found[kind][0, 1] == pytest.approx(streamed(nets, [(0, 1)], batches[:1])[kind][0, 1])
