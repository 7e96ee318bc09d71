"""The formulations of a convolution: equal values and gradients, and no gathered activations on 8 devices."""

import re

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.models import conv

# name, input, kernel, stride, padding, expected formulation on CPU; a kernel of one input channel is depthwise
CASES = [
    ("1x1", (4, 6, 6, 5), (1, 1, 5, 7), 1, ((0, 0), (0, 0)), "product"),
    ("1x1 strided", (4, 7, 6, 5), (1, 1, 5, 7), 2, ((0, 0), (0, 0)), "product"),
    ("3x3 on 2x2", (4, 2, 2, 8), (3, 3, 8, 6), 1, ((1, 1), (1, 1)), "patches"),
    ("3x3 on 4x4", (4, 4, 4, 8), (3, 3, 8, 6), 1, ((1, 1), (1, 1)), "patches"),
    ("3x3 strided to 4x4", (4, 8, 7, 3), (3, 3, 3, 4), 2, ((1, 1), (1, 1)), "patches"),
    ("3x3 strided, same", (4, 8, 8, 3), (3, 3, 3, 4), 2, "SAME", "patches"),
    ("2x3 uneven pads", (2, 4, 4, 3), (2, 3, 3, 4), 1, ((0, 1), (2, 0)), "patches"),
    ("1x1 padded", (2, 2, 2, 3), (1, 1, 3, 4), 1, ((1, 1), (1, 1)), "patches"),
    ("3x3 on 8x8", (4, 8, 8, 3), (3, 3, 3, 4), 1, ((1, 1), (1, 1)), "library"),
    ("3x3 wide on 7x7", (2, 7, 7, 256), (3, 3, 256, 4), 1, ((1, 1), (1, 1)), "patches"),
    ("3x3 wide, strided to 8x7", (2, 15, 14, 256), (3, 3, 256, 3), 2, ((1, 1), (1, 1)), "patches"),
    ("3x3 wide on 9x9", (1, 9, 9, 256), (3, 3, 256, 4), 1, ((1, 1), (1, 1)), "library"),
    ("3x3 by tap", (2, 9, 8, 16), (3, 3, 16, 5), 1, ((1, 1), (1, 1)), "library"),
    ("3x3 by tap, strided, torch", (2, 12, 11, 16), (3, 3, 16, 5), 2, ((1, 1), (1, 1)), "library"),
    ("3x3 by tap, strided, same", (2, 12, 11, 16), (3, 3, 16, 5), 2, "SAME", "library"),
    ("2x3 by tap, strided, uneven pads", (2, 12, 11, 16), (2, 3, 16, 5), 2, ((0, 1), (2, 0)), "library"),
    ("7x7 stem", (2, 16, 16, 3), (7, 7, 3, 4), 2, ((3, 3), (3, 3)), "library"),
    ("depthwise 7x7", (2, 9, 8, 6), (7, 7, 1, 6), 1, ((3, 3), (3, 3)), "depthwise"),
    ("depthwise 3x3, strided, torch", (2, 9, 8, 6), (3, 3, 1, 6), 2, ((1, 1), (1, 1)), "depthwise"),
    ("depthwise 3x3, strided, same", (2, 8, 9, 6), (3, 3, 1, 6), 2, "SAME", "depthwise"),
    ("depthwise 5x3, uneven pads", (2, 8, 9, 6), (5, 3, 1, 6), (2, 1), ((0, 3), (2, 0)), "depthwise"),
    ("depthwise, pads beyond the kernel", (2, 4, 4, 6), (2, 2, 1, 6), 1, ((3, 2), (2, 3)), "depthwise"),
]
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_values_and_gradients_equal_the_librarys(case):
    _, shape, kernel_shape, stride, padding, expected = case
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in (shape, kernel_shape))
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    groups = shape[3] if kernel_shape[2] == 1 else 1
    pads = conv._explicit(shape[1:3], kernel_shape[:2], strides, padding)
    assert conv.formulation(shape, kernel_shape, strides, pads, groups) == expected

    def results(function):
        def run(x, kernel):
            options = dict(dimension_numbers=NHWC, feature_group_count=groups)
            y, back = jax.vjp(lambda x, k: function(x, k, strides, padding, **options), x, kernel)
            return y, *back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

        return jax.jit(run)(x, kernel)

    for got, want in zip(results(conv.conv_general_dilated), results(lax.conv_general_dilated)):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("kwargs", [dict(feature_group_count=2), dict(kernel_dilation=2)])
def test_grouped_and_dilated_convolutions_are_left_to_the_library(kwargs):
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype(np.float32)
    ours = nn.Conv(4, (3, 3), conv_general_dilated=conv.conv_general_dilated, **kwargs)
    plain = nn.Conv(4, (3, 3), **kwargs)
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), atol=1e-5)


def test_the_parameter_tree_is_that_of_a_plain_convolution():
    x = jnp.ones((1, 2, 2, 3))
    ours = nn.Conv(4, (3, 3), conv_general_dilated=conv.conv_general_dilated).init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, ours) == {"params": {"kernel": (3, 3, 3, 4), "bias": (4,)}}


SHARDED = [c for c in CASES if c[0] in ("1x1 strided", "3x3 strided to 4x4", "3x3 by tap", "depthwise 7x7")]


@pytest.mark.parametrize("case", SHARDED, ids=[c[0] for c in SHARDED])
def test_activations_stay_on_their_device(case):
    _, shape, kernel_shape, stride, padding, _ = case
    mesh = sharding.make_mesh(8)
    x = jax.device_put(jnp.ones((16, *shape[1:])), sharding.batch_sharding(mesh))
    kernel = sharding.replicate(jnp.ones(kernel_shape), mesh)

    def loss(x, kernel):
        groups = shape[3] if kernel_shape[2] == 1 else 1
        return jnp.sum(conv.conv_general_dilated(x, kernel, (stride, stride), padding, feature_group_count=groups) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile()
    collectives = set(re.findall(r"(all-gather|all-to-all|collective-permute|all-reduce)", gradients.as_text()))
    assert collectives == {"all-reduce"}  # the kernel's gradient, nothing else
    assert gradients.output_shardings[0].spec == sharding.batch_sharding(mesh).spec
