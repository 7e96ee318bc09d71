"""The distributions of what is drawn, and who shares a draw."""

import jax
import numpy as np
import pytest
import scipy.stats

from radnet_jax.augment import draws
from radnet_jax.errors import UserError

KEY = jax.random.key(1)


def keys(n):
    return draws.row_keys(KEY, n, range(1)).ravel()


def drawn(n, size, scale, ratio=(3 / 4, 4 / 3)):
    boxes, found = jax.jit(lambda keys: draws.boxes(keys, "crop", size, scale, ratio))(keys(n))
    return np.asarray(boxes), np.asarray(found)


def test_boxes_have_the_distribution_of_torchvision():
    boxes, found = drawn(4000, (100, 100), (0.2, 0.5))
    top, left, height, width = boxes.T
    assert found.all()
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 100 + 1e-3
    area = height * width / 1e4
    assert 0.2 <= area.min() < 0.21
    assert 0.49 < area.max() <= 0.5
    # At most half of the area and ratio at most 4/3: no draw is rejected, so that both are exactly uniform.
    assert scipy.stats.kstest(area, "uniform", (0.2, 0.3)).pvalue > 1e-3
    assert scipy.stats.kstest(np.log(width / height), "uniform", (np.log(3 / 4), 2 * np.log(4 / 3))).pvalue > 1e-3
    assert scipy.stats.kstest(top / (100 - height), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(top / (100 - height), left / (100 - width))[0, 1]) < 0.05


def test_a_box_that_never_fits_becomes_the_largest_central_one():
    boxes, found = drawn(3, (10, 100), (0.9, 1.0))  # nine tenths of a strip can't have a ratio under 4/3
    np.testing.assert_allclose(boxes, np.tile([0, 50 - 20 / 3, 10, 40 / 3], (3, 1)), rtol=1e-5)
    assert not found.any()


@pytest.mark.parametrize("scale", [(0.05, 0.14), (0.08, 1.0)])
@pytest.mark.parametrize("size", [(50, 50), (20, 80)])
def test_no_box_is_larger_than_the_largest(scale, size):
    boxes, _ = drawn(2000, size, scale)
    largest = draws.largest_box(size, scale, (3 / 4, 4 / 3))
    assert (boxes[:, 2:] <= np.asarray(largest) + 1e-3).all()
    assert (boxes[:, 2:].max(0) > 0.9 * np.asarray(largest)).any()


def test_permutations_are_equally_likely():
    orders = np.asarray(draws.permutations(keys(4800), "order", 4))
    assert (np.sort(orders, 1) == np.arange(4)).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_factors_are_log_uniform():
    f = np.asarray(draws.factor(draws.uniform(keys(4000), "f"), 0.5))
    assert scipy.stats.kstest(np.log(f), "uniform", (-np.log(1.5), 2 * np.log(1.5))).pvalue > 1e-3


def test_draws_of_other_names_rows_and_views_are_independent():
    two = draws.row_keys(KEY, 2000, range(2))
    a, b = (np.asarray(draws.uniform(two[:, v], "x")) for v in range(2))
    c = np.asarray(draws.uniform(two[:, 0], "y"))
    for other in (b, c, np.roll(a, 1)):
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.08
        assert not (a == other).any()


def test_a_row_keeps_its_draws_in_a_larger_batch_and_with_more_views():
    few = jax.random.key_data(draws.row_keys(KEY, 3, range(2)))
    many = jax.random.key_data(draws.row_keys(KEY, 8, range(5)))
    np.testing.assert_array_equal(few, many[:3, :2])
    np.testing.assert_array_equal(jax.random.key_data(draws.row_keys(KEY, 8, range(3, 5))), many[:, 3:])


def test_groups_share_a_key_for_each_view():
    data = np.asarray(jax.random.key_data(draws.row_keys(KEY, 12, range(2), groups=3)))
    for v in range(2):
        assert len(np.unique(data[:, v], axis=0)) == 3
        assert (data[:4, v] == data[0, v]).all()
    assert (data[0, 0] != data[0, 1]).any()
    with pytest.raises(UserError, match="12 rows in 5 groups"):
        draws.row_keys(KEY, 12, range(2), groups=5)
