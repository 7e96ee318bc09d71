import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding, trees
from radnet_jax.errors import UserError

INITIAL = {"backbone": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.ones((3, 2))}}
LOADED = {"backbone/kernel": np.full((2, 3), 7.0), "backbone/bias": np.arange(3.0)}


def test_merge_fills_all_but_the_heads():
    merged = trees.merge_strict(LOADED, INITIAL, new="head/.*")
    np.testing.assert_array_equal(merged["backbone"]["kernel"], np.full((2, 3), 7.0))
    np.testing.assert_array_equal(merged["head"]["kernel"], np.ones((3, 2)))


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"backbone/kernel": np.zeros((2, 3))}, "1 missing: backbone/bias"),
        (LOADED | {"backbone/extra": np.zeros(1)}, "1 unused: backbone/extra"),
        (LOADED | {"backbone/bias": np.zeros(4)}, r"of another shape: backbone/bias \(4,\) instead of \(3,\)"),
    ],
)
def test_merge_is_strict_both_ways(loaded, message):
    with pytest.raises(UserError, match=message):
        trees.merge_strict(loaded, INITIAL, new="head/.*")


def test_digest_sees_every_kind_of_damage():
    x = jnp.arange(64, dtype=jnp.float32)
    tree = {"x": x, "half": x.astype(jnp.bfloat16), "step": jnp.int32(3), "flag": jnp.array([True, False])}
    whole = np.asarray(trees.digest(tree))
    damaged = [
        tree | {"x": x.at[5].set(jnp.nextafter(x[5], 9.0))},  # one bit
        tree | {"x": x.at[jnp.array([1, 2])].set(x[jnp.array([2, 1])])},  # two values swapped
        tree | {"half": tree["half"].at[0].set(1)},
        tree | {"step": jnp.int32(4)},
        tree | {"flag": jnp.array([False, True])},
    ]
    for other in damaged:
        assert (np.asarray(trees.digest(other)) != whole).any()


def test_digest_does_not_depend_on_the_devices():
    x = jax.random.normal(jax.random.key(0), (64, 3))
    one = np.asarray(jax.jit(trees.digest)(x))
    for devices in (2, 8):
        spread = jax.device_put(x, sharding.batch_sharding(sharding.make_mesh(devices)))
        np.testing.assert_array_equal(np.asarray(jax.jit(trees.digest)(spread)), one)
