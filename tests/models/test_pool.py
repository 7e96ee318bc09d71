"""Max pooling against Linen's, and its gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.models.pool import max_pool_2x2, max_pool_3x3


def results(pool, x):
    """Values, and the gradient for some cotangent."""

    def run(x):
        y, back = jax.vjp(pool, x)
        return y, back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    return jax.jit(run)(x)


@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        *[((2, 8, 6, 3), padding) for padding in ("torch", "same")],
        *[((2, 7, 5, 3), padding) for padding in ("torch", "same")],
        *[((2, 7, 6, 3), padding) for padding in ("torch", "same")],
        ((2, 1, 1, 3), "torch"),
    ],
)
def test_values_and_gradients_equal_linens(shape, padding):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    pads = "SAME" if padding == "same" else ((1, 1), (1, 1))

    got = results(lambda x: max_pool_3x3(x, padding), x)
    want = results(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=pads), x)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)


def test_equal_pixels_do_not_multiply_the_gradient():
    for size, padding in ((8, "torch"), (8, "same"), (7, "torch")):
        x = jnp.zeros((1, size, size, 1))
        gradient = jax.jit(jax.grad(lambda x, padding=padding: max_pool_3x3(x, padding).sum()))(x)
        assert gradient.sum() == 16  # one for each output pixel


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 7, 5, 3), (2, 1, 4, 3)])
def test_two_by_two_equals_linens(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    got = results(max_pool_2x2, x)
    want = results(lambda x: nn.max_pool(x, (2, 2), (2, 2), padding="SAME"), x)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)
