"""Streaming linear CKA against the Gram matrices of all images at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.analysis import linear_cka, similarity
from radnet_jax.analysis.linear_cka import LinearCka
from radnet_jax.errors import UserError

WIDTHS = (5, 3), (4, 7, 5)
N, BATCH = 44, 8


def layers(seed=0, offset=3.0):
    draws = np.random.default_rng(seed)
    cause = draws.standard_normal((N, 4))
    return [
        [
            np.float32(np.tanh(cause @ draws.standard_normal((4, d))) + 0.3 * draws.standard_normal((N, d)) + offset)
            for d in widths
        ]
        for widths in WIDTHS
    ]


def streamed(a, b, batch=BATCH, devices=1):
    mesh = sharding.make_mesh(num_devices=devices)
    sums = LinearCka([x.shape[1] for x in a], [x.shape[1] for x in b], mesh)
    for first in range(0, len(a[0]), batch):
        rows = np.arange(first, first + batch)
        valid = (rows < len(a[0])).astype(np.float32)
        rows = np.where(rows < len(a[0]), rows, 0)  # filled up as the last batch of a split is
        put = sharding.put_batch({"valid": valid, **{f"{s}{i}": x[rows] for s in "ab" for i, x in enumerate(
            {"a": a, "b": b}[s])}}, mesh)  # fmt: skip
        sums.add([put[f"a{i}"] for i in range(len(a))], [put[f"b{i}"] for i in range(len(b))], put["valid"])
    return sums


@pytest.fixture(scope="module")
def one_pass():
    a, b = layers()
    return a, b, streamed(a, b)


@pytest.mark.parametrize("debiased", [True, False])
def test_equals_the_gram_matrices(one_pass, debiased):
    a, b, sums = one_pass
    expected = [[similarity.linear_cka(x, y, debiased=debiased) for y in b] for x in a]
    assert sums.images == N
    assert sums.map(debiased=debiased) == pytest.approx(np.array(expected), abs=1e-6)


def test_the_same_network_twice():
    a, _ = layers()
    own = streamed(a, a).map()
    assert np.diag(own) == pytest.approx(1, abs=1e-6)
    assert own == pytest.approx(own.T, abs=1e-6)


def test_divided_over_devices(one_pass):
    """The products' 8 rows stand one on each device; the values are the same."""
    a, b, sums = one_pass
    divided = streamed(a, b, devices=8)
    assert divided._sums[0]["products"].sharding.shard_shape((8, 16)) == (1, 16)
    assert divided.map() == pytest.approx(sums.map(), abs=1e-6)


def test_features_far_from_zero():
    """Features of 1000 with a spread of 1: the raw products would leave float32 no digit of what differs."""
    a, b = layers(offset=1000.0)
    expected = [[similarity.linear_cka(x, y) for y in b] for x in a]
    assert streamed(a, b).map() == pytest.approx(np.array(expected), abs=1e-5)


def test_constant_layers_are_undefined_and_named():
    a, b = layers()
    a[1] = np.full_like(a[1], 0.1)
    sums = streamed(a, b)
    assert sums.constant() == ([1], [])
    found = sums.map()
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[0]).all()


def test_sums_over_many_batches_lose_nothing():
    """A thousand times 1 / 3 on top of 2^24, where float32 alone would add 0 each time."""
    total = jnp.float32(2**24), jnp.float32(0)
    step = jax.jit(linear_cka._compensated)
    for _ in range(1000):
        total = step(*total, jnp.float32(1 / 3))
    assert float(total[0]) + float(total[1]) == pytest.approx(2**24 + 1000 / 3, abs=1e-3)


def test_fewer_images_than_needed():
    a, b = ([x[:3] for x in side] for side in layers())
    with pytest.raises(UserError, match="fewer images than needed; got 3"):
        streamed(a, b).map()
