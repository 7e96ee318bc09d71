"""Max pooling against Linen's, and its gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.models.pool import max_pool_3x3


@pytest.mark.parametrize(
    ("shape", "padding"), [((2, 8, 6, 3), "torch"), ((2, 7, 5, 3), "torch"), ((2, 8, 6, 3), "same")]
)
def test_values_and_gradients_equal_linens(shape, padding):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    pads = "SAME" if padding == "same" else ((1, 1), (1, 1))

    def results(pool):
        def run(x):
            y, back = jax.vjp(pool, x)
            return y, back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

        return jax.jit(run)(x)

    got = results(lambda x: max_pool_3x3(x, padding))
    want = results(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=pads))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)


def test_equal_pixels_do_not_multiply_the_gradient():
    x = jnp.zeros((1, 8, 8, 1))
    gradient = jax.jit(jax.grad(lambda x: max_pool_3x3(x, "torch").sum()))(x)
    assert gradient.sum() == 16  # one for each output pixel
