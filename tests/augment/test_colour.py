"""Changes of colour against plain references, pixel by pixel."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.augment import colour

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(4, 3, 6, 5)).astype(np.float32)
FACTOR = np.array([0.0, 0.4, 1.0, 1.7], np.float32)
LUMA = np.array([0.299, 0.587, 0.114])


def each(values):
    return values[:, None, None, None]


def gray(x):
    return np.tensordot(LUMA, x.astype(float), (0, 1))[:, None] if x.shape[1] == 3 else x.astype(float)


def ref_brightness(x, factor):
    return np.clip(x * each(factor), 0, 1)


def ref_contrast(x, factor):
    mean = each(gray(x).mean((1, 2, 3)))
    return np.clip(mean + each(factor) * (x - mean), 0, 1)


def ref_saturation(x, factor):
    return np.clip(gray(x) + each(factor) * (x - gray(x)), 0, 1)


def ref_hue(x, shift):
    def turned(pixel, by):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + by) % 1, s, v)

    flat = [[turned(p, by) for p in image.reshape(3, -1).T.astype(float)] for image, by in zip(x, shift)]
    return np.asarray(flat).transpose(0, 2, 1).reshape(x.shape)


REFERENCES = {"brightness": ref_brightness, "contrast": ref_contrast, "saturation": ref_saturation, "hue": ref_hue}


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors(name):
    got = jax.jit(colour.OPERATIONS[name])(X, FACTOR)
    np.testing.assert_allclose(got, REFERENCES[name](X, FACTOR), atol=1e-6)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_factors_of_one_channel(name):
    got = jax.jit(colour.OPERATIONS[name])(X[:, :1], FACTOR)
    np.testing.assert_allclose(got, REFERENCES[name](X[:, :1], FACTOR), atol=1e-6)


def test_hue_equals_colorsys():
    x = X.copy()
    # Without a hue; pure ones; two equal channels.
    x[0, :, 0] = np.array([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 1]]).T
    x[0, :, 1] = np.array([[0.7, 0.7, 0.2], [0.2, 0.7, 0.7], [0.7, 0.2, 0.7], [0, 0, 1], [0, 1, 0]]).T
    shift = np.array([0.2, -0.2, 0.5, 0.0], np.float32)
    np.testing.assert_allclose(jax.jit(colour.hue)(x, shift), ref_hue(x, shift), atol=1e-5)


def drawn_jitter(n, names):
    strengths = {name: RNG.uniform(0.3, 1.7, n).astype(np.float32) for name in names}
    if "hue" in names:
        strengths["hue"] = RNG.uniform(-0.2, 0.2, n).astype(np.float32)
    orders = list(itertools.permutations(range(len(names))))
    return strengths, np.asarray([orders[i % len(orders)] for i in range(n)], np.int32)


@pytest.mark.parametrize("names", [("brightness", "contrast", "saturation", "hue"), ("brightness", "contrast")])
@pytest.mark.parametrize("form", ["switch", "select"])
def test_jitter_applies_the_operations_in_each_order(names, form):
    strengths, order = drawn_jitter(24, names)
    x = RNG.uniform(size=(24, 3 if len(names) == 4 else 1, 6, 5)).astype(np.float32)
    want = x.astype(float)
    for k in range(len(names)):
        for i, name in enumerate(names):
            now = order[:, k] == i
            want[now] = REFERENCES[name](want[now], strengths[name][now])
    if form == "select":
        got = jax.jit(lambda x, s, o: colour.jitter(x, s, o, form="select"))(x, strengths, order)
    else:  # one image at a time
        one = jax.jit(lambda x, s, o: colour.jitter(x, s, o, form="switch"))
        rows = [slice(i, i + 1) for i in range(24)]
        got = np.concatenate([one(x[r], {k: v[r] for k, v in strengths.items()}, order[r]) for r in rows])
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_grayscale():
    np.testing.assert_allclose(colour.grayscale(X), np.broadcast_to(gray(X), X.shape), atol=1e-6)


def test_solarize_inverts_the_bright_values():
    np.testing.assert_allclose(colour.solarize(X), np.where(X >= 0.5, 1 - X, X), atol=1e-6)
    np.testing.assert_allclose(colour.solarize(X, 0.9), np.where(X >= 0.9, 1 - X, X), atol=1e-6)


def test_gamma_raises_to_a_power():
    x = X.copy()
    x[:, :, 0, 0] = 0
    exponent = np.array([0.5, 1.0, 1.5, 3.0], np.float32)
    got = jax.jit(colour.gamma)(x, exponent)
    np.testing.assert_allclose(got, x ** each(exponent), atol=1e-5)


@pytest.mark.parametrize("name", [*colour.OPERATIONS, "gamma", "grayscale", "solarize"])
def test_bfloat16_stays_bfloat16_and_close(name):
    x = jnp.asarray(X, jnp.bfloat16)
    operation = colour.OPERATIONS.get(name) or getattr(colour, name)
    strength = () if name in ("grayscale", "solarize") else (FACTOR * 0.3,)
    got = operation(x, *strength)
    assert got.dtype == jnp.bfloat16
    want = np.asarray(operation(x.astype(jnp.float32), *strength))
    np.testing.assert_allclose(got.astype(np.float32), want, atol=0.005)
