"""The contract of a backbone, over every registered one; a new one is found here by its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS

# The smallest network of each kind, by the beginning of its names.
SMALL = {
    "resnet": dict(base_width=4),
    "vit": dict(width=16, depth=4, heads=2, image_size=32),
    "convnext": dict(depths=(1, 1, 1, 1), widths=(4, 8, 12, 16)),
    "swin": dict(base_width=4, depths=(2, 1, 1, 1), head_width=4, window=3),
    "mobilenet": dict(multiplier=0.1),
    "densenet": dict(depths=(1, 2, 1, 1), growth=4),
}
SMALLEST = ["resnet10", "vit_tiny", "convnext_tiny", "swin_tiny", "mobilenet_v3_small", "densenet121"]


def small(name, **changes):
    (kwargs,) = [kwargs for start, kwargs in SMALL.items() if name.startswith(start)]
    return MODELS.build(name, kwargs | changes)


def images(*size, n=4):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, *size)), jnp.float32)


def shapes(net, x):
    return jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, train=False))


def drawn(shapes):
    """Weights and statistics drawn by NumPy, those of normalisations too: no compilation, and none is at its start."""
    draws = np.random.default_rng(1)

    def draw(path, x):
        leaf = path[-1].key
        if leaf in ("scale", "var"):
            return draws.uniform(0.5, 1.5, x.shape).astype(np.float32)
        fan_in = np.prod(x.shape[:-1]) if leaf == "kernel" else 25
        return (draws.standard_normal(x.shape) * (1.5 / fan_in) ** 0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module", params=SMALLEST)
def seen(request):
    """A small network's variables, its output in eval mode, there in bfloat16, one step of training with gradients."""
    net, low = small(request.param), small(request.param, dtype="bfloat16")
    x = images(32, 32, 3)
    variables = drawn(shapes(net, x)[1])

    def run(variables):
        def loss(params):
            out, updates = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(out)), (out, updates)

        gradient, (out, updates) = jax.grad(loss, has_aux=True)(variables["params"])
        evaluated, lower = (m.apply(variables, x, train=False) for m in (net, low))
        return dict(gradient=gradient, out=out, updates=updates, evaluated=evaluated, lower=lower)

    return dict(net=net, low=low, variables=variables, **jax.jit(run)(variables))


@pytest.mark.parametrize("name", MODELS.names())
def test_the_full_network(name):
    net = MODELS.build(name)
    out, _ = shapes(net, images(224, 224, 3, n=2))
    assert out["pooled"].shape == (2, net.width)
    assert out["pooled"].dtype == jnp.float32
    strides = [16] * 4 if name.startswith("vit") else [4, 8, 16, 32]
    assert [s.shape[:3] for s in out["stages"]] == [(2, 224 // s, 224 // s) for s in strides]
    assert out["stages"][-1].shape[-1] == net.width


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("size", [(32, 48), (96, 64)])
def test_height_and_width_may_differ_and_channels_may_be_one(name, size):
    out, _ = shapes(small(name), images(*size, 1))
    stride = 16 if name.startswith("vit") else 4
    assert out["stages"][0].shape[1:3] == (size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", sorted(set(SMALLEST) - {"vit_tiny", "resnet10"}))
@pytest.mark.parametrize("size", [(33, 47), (75, 62)])
def test_sides_need_no_factor(name, size):
    out, _ = shapes(small(name), images(*size, 3))
    assert len(out["stages"]) == 4


# resnets pad what is too small, and take any size.
@pytest.mark.parametrize(
    ("name", "size", "works"),
    [(name, (32, 31), "at least 32") for name in SMALLEST if not name.startswith(("vit", "resnet"))]
    + [("vit_tiny", (32, 40), "multiples of 16"), ("vit_tiny", (0, 16), "at least 16")],
)
def test_other_sizes_are_refused(name, size, works):
    with pytest.raises(UserError, match=f"got {size[0]}x{size[1]}; expected height and width of .*{works}"):
        shapes(small(name), images(*size, 3))


def test_every_weight_learns(seen):
    """Each gets a gradient, finite and not 0: none is idle, none is cut off."""
    for path, g in jax.tree_util.tree_leaves_with_path(seen["gradient"]):
        assert np.isfinite(g).all(), path
        assert np.abs(g).max() > 0, path


def test_training_updates_statistics_where_there_are_any(seen):
    before, after = seen["variables"].get("batch_stats", {}), seen["updates"].get("batch_stats", {})
    assert jax.tree.structure(before) == jax.tree.structure(after)
    moved = [np.abs(a - b).max() > 0 for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))]
    assert all(moved)
    assert bool(moved) == hasattr(seen["net"], "norm_momentum")
    differ = np.abs(seen["evaluated"]["pooled"] - seen["out"]["pooled"]).max() > 1e-4
    assert differ == bool(moved)  # a network without statistics is the same in training


def test_bfloat16_computes_low_and_keeps_float32(seen):
    _, variables = shapes(seen["low"], images(32, 32, 3))
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, seen["variables"])
    want, got = seen["evaluated"], seen["lower"]
    assert {s.dtype for s in got["stages"]} == {jnp.dtype("bfloat16")}
    assert got["pooled"].dtype == jnp.float32
    error = np.abs(got["pooled"] - want["pooled"])
    assert error.max() > 0
    assert error.mean() < 0.03 * want["pooled"].std()


def test_examples_stay_on_their_device(seen):
    """Without BatchNorm's statistics nothing passes between devices: no layer folds the batch into something else."""
    mesh = sharding.make_mesh(8)
    divided = sharding.batch_sharding(mesh)
    run = jax.jit(lambda v, x: seen["net"].apply(v, x, train=False), in_shardings=(sharding.replicated(mesh), divided))
    compiled = run.lower(seen["variables"], images(32, 32, 3, n=16)).compile()
    assert not sharding.collectives(compiled.as_text())
    for s in jax.tree.leaves(compiled.output_shardings):
        assert s.shard_shape((16, 8, 8, 8))[0] == 2


@pytest.mark.parametrize("name", MODELS.names())
def test_it_can_be_hashed_and_compared(name):
    assert MODELS.build(name) == MODELS.build(name)
    assert hash(MODELS.build(name)) == hash(MODELS.build(name))


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("kwargs", [dict(dtype="float16"), dict(no_such_argument=1)])
def test_bad_arguments_are_refused(name, kwargs):
    with pytest.raises(UserError):
        MODELS.build(name, kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("convnext_tiny", dict(depths=(1, 1, 1))),
        ("convnext_tiny", dict(widths=(8, 16, 0, 32))),
        ("swin_tiny", dict(window=0)),
        ("swin_tiny", dict(base_width=40)),
        ("swin_tiny", dict(depths=(2, 2, 2, 1.5))),
        ("mobilenet_v3_small", dict(multiplier=0)),
        ("densenet121", dict(growth=0)),
    ],
)
def test_bad_arguments_of_one_kind_are_refused(name, kwargs):
    with pytest.raises(UserError, match=f"{name}: {next(iter(kwargs))}"):
        MODELS.build(name, kwargs)
