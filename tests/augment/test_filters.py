"""Blur, sharpening and noise against plain references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from radnet_jax.augment import draws, filters

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(4, 3, 8, 9)).astype(np.float32)


def ref_blur(image, sigma, radius):
    """A Gaussian whose weights are renormalised at the border."""
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    want = image.astype(float)
    for axis in (1, 2):
        smoothed = scipy.ndimage.correlate1d(want, kernel, axis, mode="constant")
        want = smoothed / scipy.ndimage.correlate1d(np.ones_like(want), kernel, axis, mode="constant")
    return want


@pytest.mark.parametrize("form", ["shifts", "matrix"])
@pytest.mark.parametrize("radius", [1, 3])
def test_blur_equals_a_gaussian_renormalised_at_the_border(form, radius):
    sigma = np.array([0.0, 0.3, 0.8, 1.1], np.float32)
    got = jax.jit(lambda x, s: filters.gaussian_blur(x, s, radius=radius, form=form))(X, sigma)
    np.testing.assert_allclose(got[0], X[0], atol=1e-6)
    for image, s, result in list(zip(X, sigma, got))[1:]:
        np.testing.assert_allclose(result, ref_blur(image, s, radius), atol=1e-5)


def test_sharpening_equals_a_convolution():
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    for factor in (0.0, 1.0, 2.0):
        want = X.copy()
        for image, result in zip(X, want):
            for channel, out in zip(image, result):
                smooth = scipy.ndimage.convolve(channel, kernel)
                sharp = np.clip(smooth + factor * (channel - smooth), 0, 1)
                out[1:-1, 1:-1] = sharp[1:-1, 1:-1]
        np.testing.assert_allclose(filters.sharpen(X, factor), want, atol=1e-6)


def keys(n):
    return draws.row_keys(jax.random.key(0), n, range(1)).ravel()


def test_noise_is_normal_and_independent():
    x = np.full((3, 2, 40, 40), 0.5, np.float32)
    std = np.array([0.0, 0.02, 0.08], np.float32)
    noise = np.asarray(jax.jit(filters.gaussian_noise)(keys(3), x, std)) - x
    assert not noise[0].any()
    for n, s in zip(noise[1:], std[1:]):
        assert scipy.stats.kstest(n.ravel() / s, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[1].ravel(), noise[2].ravel())[0, 1]) < 0.06


def test_rician_noise_has_the_rice_distribution():
    x = np.full((2, 1, 60, 60), 0.1, np.float32)
    std = np.array([0.0, 0.08], np.float32)
    got = np.asarray(jax.jit(filters.rician_noise)(keys(2), x, std))
    np.testing.assert_allclose(got[0], x[0], atol=1e-6)
    assert scipy.stats.kstest(got[1].ravel(), scipy.stats.rice(0.1 / 0.08, scale=0.08).cdf).pvalue > 1e-3


@pytest.mark.parametrize("operation", [filters.gaussian_noise, filters.rician_noise])
def test_noise_stays_in_the_range(operation):
    got = operation(keys(1), np.ones((1, 1, 8, 8), np.float32), np.array([0.5]))
    assert 0 <= got.min() < got.max() == 1


def test_bfloat16_stays_bfloat16_and_close():
    x, s = jnp.asarray(X, jnp.bfloat16), np.full(4, 0.7, np.float32)
    changes = {
        "shifts": lambda x: filters.gaussian_blur(x, s, radius=2, form="shifts"),
        "matrix": lambda x: filters.gaussian_blur(x, s, radius=2, form="matrix"),
        "sharpen": lambda x: filters.sharpen(x, 2.0),
        "noise": lambda x: filters.gaussian_noise(keys(4), x, s / 10),
        "rician": lambda x: filters.rician_noise(keys(4), x, s / 10),
    }
    for name, change in changes.items():
        got = change(x)
        assert got.dtype == jnp.bfloat16, name
        want = np.asarray(change(x.astype(jnp.float32)))
        np.testing.assert_allclose(got.astype(np.float32), want, atol=0.012, err_msg=name)
