"""Colours, blur and noise against plain references, pixel by pixel."""

import colorsys

import jax
import numpy as np
import scipy.ndimage
import scipy.stats

from radnet_jax.augment import draws, intensity

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(4, 6, 5, 3)).astype(np.float32)
FACTOR = np.array([0.0, 0.4, 1.0, 1.7], np.float32)
LUMA = np.array([0.299, 0.587, 0.114])


def changed(operation, values, x=X):
    return np.asarray(jax.jit(lambda x, v: intensity.merge(operation(intensity.split(x), v)))(x, values))


def each(values):
    return values[:, None, None, None]


def test_brightness():
    np.testing.assert_allclose(changed(intensity.brightness, FACTOR), np.clip(X * each(FACTOR), 0, 1), atol=1e-6)


def test_contrast():
    mean = (X @ LUMA).mean((1, 2))
    want = np.clip(each(mean) + each(FACTOR) * (X - each(mean)), 0, 1)
    np.testing.assert_allclose(changed(intensity.contrast, FACTOR), want, atol=1e-6)


def test_contrast_of_one_channel():
    x = X[..., :1]
    mean = x.mean((1, 2, 3))
    want = np.clip(each(mean) + each(FACTOR) * (x - each(mean)), 0, 1)
    np.testing.assert_allclose(changed(intensity.contrast, FACTOR, x), want, atol=1e-6)


def test_saturation():
    gray = (X @ LUMA)[..., None]
    want = np.clip(gray + each(FACTOR) * (X - gray), 0, 1)
    np.testing.assert_allclose(changed(intensity.saturation, FACTOR), want, atol=1e-6)


def test_hue_equals_colorsys():
    x = X.copy()
    x[0, 0] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 1]]  # without a hue, and pure ones
    x[0, 1, 0] = [0.7, 0.7, 0.2]
    shift = np.array([0.2, -0.2, 0.5, 0.0], np.float32)

    def turned(pixel, by):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + by) % 1, s, v)

    want = [[turned(pixel, by) for pixel in image.reshape(-1, 3).astype(float)] for image, by in zip(x, shift)]
    np.testing.assert_allclose(changed(intensity.hue, shift, x), np.reshape(want, x.shape), atol=1e-5)


def test_grayscale_where_it_applies():
    apply = np.array([True, False, True, False])
    want = np.where(each(apply), (X @ LUMA)[..., None], X)
    np.testing.assert_allclose(changed(intensity.grayscale, apply), want, atol=1e-6)


def test_blur_equals_a_gaussian_renormalised_at_the_border():
    sigma, radius = np.array([0.0, 0.3, 0.8, 1.1], np.float32), 3
    got = jax.jit(lambda x, s: intensity.gaussian_blur(x, s, radius=radius))(X, sigma)
    np.testing.assert_allclose(got[0], X[0], atol=1e-6)
    for image, s, result in list(zip(X, sigma, got))[1:]:
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / s) ** 2)
        want = image.astype(float)
        for axis in (0, 1):
            smoothed = scipy.ndimage.correlate1d(want, kernel, axis, mode="constant")
            want = smoothed / scipy.ndimage.correlate1d(np.ones_like(want), kernel, axis, mode="constant")
        np.testing.assert_allclose(result, want, atol=1e-5)


def test_noise_is_normal_and_independent():
    keys = draws.row_keys(jax.random.key(0), 3, 1)
    x = np.full((3, 40, 40, 2), 0.5, np.float32)
    std = np.array([0.0, 0.02, 0.08], np.float32)
    noise = np.asarray(jax.jit(intensity.gaussian_noise)(keys, x, std)) - x
    assert not noise[0].any()
    for n, s in zip(noise[1:], std[1:]):
        assert scipy.stats.kstest(n.ravel() / s, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[1].ravel(), noise[2].ravel())[0, 1]) < 0.06


def test_noise_stays_in_the_range():
    keys = draws.row_keys(jax.random.key(0), 1, 1)
    got = intensity.gaussian_noise(keys, np.ones((1, 8, 8, 1), np.float32), np.array([0.5]))
    assert 0 <= got.min() < got.max() == 1
