"""ResNets: sizes known from torchvision, the contract of a backbone, padding, initial values, 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS, conv, resnet


def shapes(net, size=64, channels=3):
    return jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), jnp.zeros((2, size, size, channels)), train=False)
    )


# torchvision's counts less those of its fully connected layer.
@pytest.mark.parametrize(
    ("name", "count", "width"),
    [
        ("resnet18", 11_176_512, 512),
        ("resnet34", 21_284_672, 512),
        ("resnet50", 23_508_032, 2048),
        ("resnet101", 42_500_160, 2048),
        ("resnet152", 58_143_808, 2048),
    ],
)
def test_parameters_are_those_of_torchvision(name, count, width):
    net = MODELS.build(name)
    out, variables = shapes(net)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count
    assert net.width == width
    assert out["pooled"].shape == (2, width)
    assert [s.shape[1] for s in out["stages"]] == [16, 8, 4, 2]
    assert [s.shape[-1] for s in out["stages"]] == [width // 8, width // 4, width // 2, width]


def test_the_small_stem_keeps_the_resolution():
    out, variables = shapes(MODELS.build("resnet18", dict(stem="conv3", base_width=8)), size=32, channels=1)
    assert [s.shape for s in out["stages"]] == [(2, 32, 32, 8), (2, 16, 16, 16), (2, 8, 8, 32), (2, 4, 4, 64)]
    assert variables["params"]["stem_conv"]["kernel"].shape == (3, 3, 1, 8)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(stem="conv5"),
        dict(remat="stage"),
        dict(padding="valid"),
        dict(dtype="float16"),
        dict(base_width=0),
        dict(depth=18),
    ],
)
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(UserError):
        MODELS.build("resnet18", kwargs)


@pytest.fixture(scope="module")
def tiny():
    """A network, its variables and a batch; compiled once."""
    net = MODELS.build("resnet18", dict(base_width=4))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((16, 32, 32, 3)), jnp.float32)
    return net, jax.jit(lambda: net.init(jax.random.key(0), x[:1], train=False))(), x


def step(net, variables, x):
    """Loss, gradient and new statistics of a batch."""

    def loss(params):
        out, updates = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(out["pooled"]) ** 2), updates

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def assert_close(got, want, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=tolerance * (np.abs(b).max() + 1e-6), rtol=0, err_msg=str(path))


def test_the_formulations_train_alike(tiny, monkeypatch):
    net, variables, x = tiny
    ours = jax.jit(lambda v, x: step(net, v, x))(variables, x)
    monkeypatch.setattr(conv, "formulation", lambda *args: "library")
    library = jax.jit(lambda v, x: step(net, v, x))(variables, x)
    assert_close(ours, library, 2e-4)  # a step through 18 BatchNorms multiplies the rounding of one convolution


@pytest.mark.parametrize("remat", ["stages", "blocks"])
def test_what_is_computed_again_is_the_same(tiny, remat):
    net, variables, x = tiny
    again = net.clone(remat=remat)
    assert shapes(again, size=32) == shapes(net, size=32)
    (loss, updates), gradient = jax.jit(lambda v, x: step(again, v, x))(variables, x)
    assert_close(((loss, updates), gradient), jax.jit(lambda v, x: step(net, v, x))(variables, x), 1e-5)


@pytest.mark.parametrize(("remat", "share"), [("stages", 0.15), ("blocks", 0.25)])
def test_computing_again_keeps_less_for_the_gradient(remat, share):
    def kept(net):
        x = jnp.zeros((32, 96, 96, 3))
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x[:1], train=False))

        def backward(variables):
            def pooled(params):
                return net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0]["pooled"]

            return jax.vjp(pooled, variables["params"])[1]

        size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables)))
        return size - sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    assert kept(MODELS.build("resnet50", dict(remat=remat))) < share * kept(MODELS.build("resnet50"))


def test_batch_norm_sees_the_global_batch(tiny):
    net, variables, x = tiny
    run = jax.jit(lambda v, x: step(net, v, x))
    whole = run(variables, x)
    mesh = sharding.make_mesh(8)
    sharded = run(sharding.replicate(variables, mesh), jax.device_put(x, sharding.batch_sharding(mesh)))
    assert_close(sharded, whole, 2e-4)


def test_statistics_follow_their_momentum_and_the_batch(tiny):
    net, variables, x = tiny
    _, updates = jax.jit(lambda v, x: step(net, v, x))(variables, x)[0]
    pixels = conv.lax.conv_general_dilated(
        x,
        variables["params"]["stem_conv"]["kernel"],
        (2, 2),
        ((3, 3), (3, 3)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    new = updates["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(new["mean"], 0.1 * np.mean(pixels, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 + 0.1 * np.var(pixels, (0, 1, 2)), rtol=1e-4)


def test_zero_init_last_starts_each_block_as_its_shortcut():
    block = resnet.Block(
        features=4,
        strides=1,
        bottleneck=False,
        zero_init_last=True,
        conv=lambda *a, name: resnet._conv(*a, padding="torch", dtype=jnp.float32, name=name),
        norm=lambda **kw: resnet.nn.BatchNorm(use_running_average=False, **kw),
    )
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 4)), jnp.float32)
    y, _ = jax.jit(block.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(y, x, atol=1e-6)


def test_paddings_differ_where_the_stride_is_2(tiny):
    net, variables, x = tiny
    same = net.clone(padding="same")
    assert shapes(same, size=32)[0]["pooled"].shape == (2, 32)
    kernel = variables["params"]["stem_conv"]["kernel"]
    outputs = [
        resnet._conv(4, 7, 2, padding, jnp.float32, None).apply({"params": {"kernel": kernel}}, x)
        for padding in ("torch", "same")
    ]
    assert outputs[0].shape == outputs[1].shape
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


def test_bfloat16_computes_low_and_keeps_float32():
    net = MODELS.build("resnet18", dict(base_width=4, dtype="bfloat16"))
    out, variables = shapes(net, size=32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert out["stages"][0].dtype == jnp.bfloat16
    assert out["pooled"].dtype == jnp.float32
