"""Weights before and after: the published definition on weights made by hand."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from radnet_jax.analysis import weights
from radnet_jax.errors import UserError

SHAPES = {
    "stem_conv": (7, 7, 3, 8),
    "stage1_block1/conv1": (1, 1, 8, 16),
    "stage1_block1/conv2": (3, 3, 16, 16),
}


def network(seed=0, **changed):
    draws = np.random.default_rng(seed)
    flat = {name: draws.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} | changed
    block = {k.split("/")[1]: {"kernel": v} for k, v in flat.items() if "/" in k}
    norm = {"scale": np.ones(8, np.float32)}
    return {"stem_conv": {"kernel": flat["stem_conv"]}, "stage1_block1": block, "stem_norm": norm}


def kernel(params, name):
    for part in name.split("/"):
        params = params[part]
    return params


def test_rows_are_those_of_the_study():
    """torch's [out in h w], moved to [out h w in] and flattened: the last axis is the input channel."""
    params = network()
    torchs = params["stem_conv"]["kernel"].transpose(3, 2, 0, 1)
    assert np.array_equal(
        weights.published_weights(params)["stem_conv/kernel"], np.moveaxis(torchs, 1, -1).reshape(8 * 49, 3)
    )


def test_reuse_by_the_formula():
    a, b = network(0), network(1)
    for name, found in weights.published_reuse(a, b).items():
        rows = [kernel(p, name).transpose(3, 0, 1, 2) for p in (a, b)]
        rows = [r.reshape(-1, r.shape[-1]).astype(np.float64) for r in rows]
        n = len(rows[0])
        centre = np.eye(n) - 1 / n
        grams = []
        for x in rows:
            squared = ((x[:, None] - x[None]) ** 2).sum(axis=2)
            nonzero = np.sort(squared[squared != 0])
            grams.append(centre @ rbf_kernel(x, gamma=0.5 / nonzero[(len(nonzero) - 1) // 2]) @ centre)
        k, l = grams  # noqa: E741
        assert found == pytest.approx(np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l)), rel=1e-8)


def test_what_published_reuse_does_not_see():
    """It is 1 for the same weights, for scaled ones, for rotated input channels; and not for permuted filters."""
    before = network()
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))[0]
    conv2 = kernel(before, "stage1_block1/conv2/kernel")
    for changed in (conv2, -3 * conv2, conv2 + 0.5, np.einsum("hwio,ij->hwjo", conv2, turn)):
        found = weights.published_reuse(before, network(**{"stage1_block1/conv2": changed}))
        assert list(found.values()) == pytest.approx([1, 1, 1], abs=1e-6)
    order = np.random.default_rng(4).permutation(16)
    found = weights.published_reuse(before, network(**{"stage1_block1/conv2": conv2[..., order]}))
    assert found["stage1_block1/conv2/kernel"] < 0.7


def test_uniqueness_of_repeated_filters_is_zero():
    before = network()
    repeated = np.repeat(before["stem_conv"]["kernel"][..., :1], 8, axis=3)
    found = weights.published_uniqueness(network(stem_conv=repeated))
    assert found["stem_conv/kernel"] == pytest.approx(0, abs=1e-9)
    assert 0.1 < found["stage1_block1/conv2/kernel"] < 1


def test_changes_by_block():
    before = network()
    doubled = network(**{"stage1_block1/conv2": 2 * kernel(before, "stage1_block1/conv2/kernel")})
    found = weights.changes(before, doubled)
    assert list(found) == ["stem_conv", "stage1_block1"]
    assert found["stem_conv"] == {"relative": 0.0, "cosine": pytest.approx(1)}
    first, second = (np.linalg.norm(kernel(before, f"stage1_block1/conv{i}/kernel")) for i in (1, 2))
    assert found["stage1_block1"]["relative"] == pytest.approx(second / np.hypot(first, second), rel=1e-6)
    zeros = network(stem_conv=np.zeros(SHAPES["stem_conv"], np.float32))
    assert np.isnan(weights.changes(zeros, before)["stem_conv"]["relative"])


def test_other_architectures_are_refused():
    with pytest.raises(UserError, match="two architectures"):
        weights.changes(network(), network(stem_conv=np.zeros((3, 3, 3, 8), np.float32)))
    with pytest.raises(UserError, match=r"radnet_published.*ResNets"):
        weights.published_reuse({"block01": {"kernel": np.zeros((2, 2))}}, network())
