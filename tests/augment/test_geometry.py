"""Crops, flips and rotations against plain references, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from radnet_jax.augment import draws, geometry

RNG = np.random.default_rng(0)


def boxes(n, size):
    """Boxes of any size down to two pixels, some touching the border."""
    extent = RNG.uniform(2, size, (n, 2))
    extent[0] = size
    start = (np.asarray(size) - extent) * RNG.uniform(size=(n, 2))
    start[1] = 0
    return np.concatenate([start, extent], 1).astype(np.float32)


@pytest.mark.parametrize("form", ["taps", "matrix"])
@pytest.mark.parametrize(("size", "out"), [((20, 23), (16, 12)), ((12, 12), (16, 16)), ((40, 37), (16, 16))])
def test_crops_equal_scale_and_translate(form, size, out, monkeypatch):
    if form == "matrix":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = RNG.uniform(size=(6, *size, 3)).astype(np.float32)
    b = boxes(6, size)
    flip_h, flip_v = np.arange(6) % 2 == 1, np.arange(6) >= 4
    got = jax.jit(lambda *a: geometry.crop_and_resize(*a, out, flip_h=flip_h, flip_v=flip_v))(x, b)
    scale = np.asarray(out) / b[:, 2:]

    def one(image, scale, start):
        return jax.image.scale_and_translate(
            image, (*out, 3), (0, 1), scale, -start * scale, method="linear", antialias=True
        )

    want = np.array(jax.jit(jax.vmap(one))(x, scale, b[:, :2]))
    want[flip_h] = want[flip_h][:, :, ::-1]
    want[flip_v] = want[flip_v][:, ::-1]
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_whole_box_at_the_same_size_changes_nothing():
    x = RNG.uniform(size=(2, 9, 7, 1)).astype(np.float32)
    got = jax.jit(lambda x: geometry.crop_and_resize(x, geometry.whole_boxes(2, (9, 7)), (9, 7)))(x)
    np.testing.assert_allclose(got, x, atol=1e-6)


def drawn(n, size, scale, ratio=(3 / 4, 4 / 3)):
    keys = draws.row_keys(jax.random.key(1), n, 1)
    return np.asarray(jax.jit(lambda keys: geometry.draw_boxes(keys, size, scale, ratio))(keys))


def test_boxes_have_the_distribution_of_torchvision():
    top, left, height, width = drawn(4000, (100, 100), (0.2, 0.5)).T
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
    got = drawn(3, (10, 100), (0.9, 1.0))  # nine tenths of a strip can't have a ratio under 4/3
    np.testing.assert_allclose(got, np.tile([0, 50 - 20 / 3, 10, 40 / 3], (3, 1)), rtol=1e-5)


def test_rotation_equals_scipy():
    x = RNG.uniform(size=(4, 15, 12, 2)).astype(np.float32)
    degrees = np.array([0.0, 10.0, -25.0, 90.0], np.float32)
    got = jax.jit(geometry.rotate)(x, degrees)
    for image, angle, result in zip(x, degrees, got):
        want = scipy.ndimage.rotate(image, angle, (0, 1), reshape=False, order=1, mode="grid-constant", prefilter=False)
        np.testing.assert_allclose(result, want, atol=1e-4)


def test_rotation_is_counter_clockwise():
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, 2, 4] = 1  # right of the centre
    got = geometry.rotate(x, jnp.asarray([90.0]))
    assert got[0, 0, 2, 0] == pytest.approx(1, abs=1e-5)  # above it
