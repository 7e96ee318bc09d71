"""Maps on the input of networks whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from radnet_jax.analysis import attribution

SIDE = 16
KERNEL = np.random.default_rng(0).standard_normal((SIDE, SIDE, 3, 2)).astype(np.float32)


def linear(kernel, state, image):
    del state
    return jnp.einsum("nhwc,hwcd->nd", image, kernel)


def bright_corner(threshold, state, image):
    """How far the upper left quarter is above a threshold, and a number that nothing changes."""
    del state
    above = jnp.maximum(image[:, : SIDE // 2, : SIDE // 2].mean((1, 2, 3)) - threshold, 0)
    return jnp.stack([above, 0 * above + 3], axis=1)


def test_of_a_linear_network():
    image = np.random.default_rng(1).standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)
    direction = np.array([[1, 0], [0, 1], [0.5, -2]], np.float32)
    found = attribution.of_images(linear, KERNEL, {}, image, direction)
    assert tuple(found) == attribution.MAPS
    for i in range(3):
        slope = KERNEL @ direction[i]
        assert found["gradient"][i] == pytest.approx(np.abs(slope).max(axis=2), abs=1e-5)
        added = (image[i] * slope).sum(axis=2)
        assert found["input_x_gradient"][i] == pytest.approx(added, abs=1e-4)
        total, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
        for top in range(0, SIDE - 3, 2):  # 7 places of a patch of 4 pixels
            for left in range(0, SIDE - 3, 2):
                place = slice(top, top + 4), slice(left, left + 4)
                total[place] += added[place].sum()
                count[place] += 1
        assert found["occlusion"][i] == pytest.approx(total / count, abs=1e-3)


def test_a_unit_that_looks_at_a_corner():
    image = np.full((2, SIDE, SIDE, 1), 1.0, np.float32)
    image[1, : SIDE // 2, : SIDE // 2] = 0.1  # below the threshold: the unit is 0, and stays so
    one = np.eye(2, dtype=np.float32)[[0, 0]]
    found = attribution.of_images(bright_corner, np.float32(0.2), {}, image, one)
    corner = np.zeros((SIDE, SIDE), bool)
    corner[: SIDE // 2, : SIDE // 2] = True
    for name in attribution.MAPS:
        assert (found[name][0][corner] > 0).all(), name
        assert np.abs(found[name][1]).max() == 0, name
    for name in ("gradient", "input_x_gradient"):
        assert found[name][0][corner] == pytest.approx(1 / 64)
        assert np.abs(found[name][0][~corner]).max() == 0
    assert np.abs(found["occlusion"][0][10:]).max() == 0  # patches that far down don't reach it
    assert found["occlusion"][0][0, 0] == pytest.approx(16 / 64)
    same = attribution.of_images(bright_corner, np.float32(0.2), {}, image, np.eye(2, dtype=np.float32)[[1, 1]])
    assert all(np.abs(values).max() == 0 for values in same.values())


@pytest.mark.parametrize("size", [(16, 16), (9, 30), (5, 5), (3, 2)])
def test_every_pixel_is_hidden_by_some_patch(size):
    hidden = attribution.patches(*size)
    assert (hidden.sum(axis=0) > 0).all()
    assert {p.sum() for p in hidden} == {max(size[0] // 4, 1) * max(size[1] // 4, 1)}


def test_agreement_is_a_rank_correlation_without_signs():
    x, y = np.random.default_rng(0).standard_normal((2, 9, 9))
    assert attribution.agreement(x, y) == pytest.approx(spearmanr(np.abs(x).ravel(), np.abs(y).ravel()).statistic)
    assert attribution.agreement(x, -3 * x) == pytest.approx(1)
    assert np.isnan(attribution.agreement(x, np.ones((9, 9))))
