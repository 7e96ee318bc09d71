"""Positions of patches: the formula of the fixed table, and resampling against PyTorch's and by hand."""

import numpy as np
import pytest

from radnet_jax.models.positions import resample, sincos


def test_the_fixed_table_is_the_formula():
    table = sincos(3, 5, 16)
    assert table.shape == (15, 16)
    row, column = 2, 3
    want = []
    for position in (column, row):
        for f in (np.sin, np.cos):
            want += [f(position / 10000 ** (2 * i / 8)) for i in range(4)]
    np.testing.assert_allclose(table[row * 5 + column], want, atol=1e-6)


@pytest.mark.parametrize(("was", "now"), [((14, 14), (6, 6)), ((4, 4), (7, 5)), ((6, 6), (3, 13)), ((1, 1), (2, 3))])
def test_resampling_is_torchs_bicubic(was, now):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((was[0] * was[1], 3)).astype(np.float32)
    image = torch.tensor(table).reshape(1, *was, 3).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(image, size=now, mode="bicubic", align_corners=False)
    got = resample(table, was, now)
    np.testing.assert_allclose(got, want[0].permute(1, 2, 0).reshape(-1, 3), atol=1e-5)


def test_resampling_keeps_a_slope_and_the_order_of_patches():
    rows, columns = np.divmod(np.arange(64), 8)
    got = np.asarray(resample(np.stack([rows, columns], 1).astype(np.float32), (8, 8), (16, 4))).reshape(16, 4, 2)
    np.testing.assert_allclose(got[6:10, 0, 0], (np.arange(6, 10) + 0.5) / 2 - 0.5, atol=0.05)  # a cubic's ripple
    np.testing.assert_allclose(got[0, 1:3, 1], [2.5, 4.5], atol=1e-5)


def test_the_same_grid_is_the_same_table():
    table = np.zeros((6, 2), np.float32)
    assert resample(table, (2, 3), (2, 3)) is table
