"""Vision transformers: their two halves, positions at other sizes, pooling, names for layer decay and freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.models.vit import ViT
from radnet_jax.optim import make_optimizer

SMALL = dict(width=16, depth=4, heads=2, patch=8, image_size=32)


def image(*size, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, *size, 3)), jnp.float32)


@pytest.fixture(scope="module")
def vit():
    net = MODELS.build("vit_tiny", SMALL)
    return net, jax.jit(lambda: net.init(jax.random.key(0), image(32, 32), train=False))()


def test_all_patches_encoded_are_the_network(vit):
    net, variables = vit
    x = image(32, 32)
    tokens = net.apply(variables, x, method="embed")
    encoded = net.apply(variables, tokens, train=True, method="encode")
    out = net.apply(variables, x, train=False)
    assert tokens.shape == (2, 16, 16)
    assert encoded.shape == (2, 17, 16)
    np.testing.assert_allclose(out["pooled"], encoded[:, 0], atol=1e-5)
    norm = net.apply(variables, out["stages"][-1].reshape(2, 16, 16), method=lambda m, t: m.final_norm(t))
    np.testing.assert_allclose(norm, encoded[:, 1:], atol=1e-5)


def test_tokens_carry_their_positions(vit):
    net, variables = vit
    tokens = net.apply(variables, image(32, 32), method="embed")
    encode = lambda t: net.apply(variables, t, train=False, method="encode")  # noqa: E731
    order = np.array([5, 0, 11, 3])
    some = encode(tokens[:, order])
    assert some.shape == (2, 5, 16)
    np.testing.assert_allclose(some[:, 0], encode(tokens[:, np.sort(order)])[:, 0], atol=1e-5)
    np.testing.assert_allclose(
        some[:, 1:], encode(tokens[:, np.sort(order)])[:, 1:][:, np.argsort(np.argsort(order))], atol=1e-5
    )
    assert np.abs(some[:, 0] - encode(tokens)[:, 0]).max() > 1e-4


def test_patches_stand_row_by_row(vit):
    net, variables = vit
    x = jnp.zeros((1, 32, 32, 3)).at[:, 8:16, 24:32].set(1.0)  # the patch in row 1, column 3
    plain = net.apply(variables, jnp.zeros((1, 32, 32, 3)), method="embed")
    changed = np.abs(net.apply(variables, x, method="embed") - plain).max((0, 2)) > 1e-3
    assert np.flatnonzero(changed).tolist() == [7]


def test_smaller_and_longer_images_share_the_weights(vit):
    net, variables = vit
    for size in ((16, 16), (24, 56)):
        out = net.apply(variables, image(*size), train=False)
        assert [s.shape for s in out["stages"]] == [(2, size[0] // 8, size[1] // 8, 16)] * 4
    # The corner of a smaller grid is the corner of the table, at half a patch further in.
    table = variables["params"]["pos_embed"][0, 1:].reshape(4, 4, 16)
    blank = jnp.zeros((1, 16, 16, 3))
    bias = variables["params"]["patch_embed"]["bias"]
    corner = net.apply(variables, blank, method="embed")[0, 0] - bias
    weights = np.array([-3 / 32 + 19 / 32, 19 / 32, -3 / 32])
    want = np.einsum("h,w,hwd->d", weights, weights, table[:3, :3])
    np.testing.assert_allclose(corner, want, atol=1e-5)


def test_mean_pooling_normalises_the_mean_of_the_patches(vit):
    net, variables = vit
    x = image(32, 32)
    last = np.asarray(net.apply(variables, x, train=False)["stages"][-1]).mean((1, 2))
    want = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    got = net.clone(pool="mean").apply(variables, x, train=False)["pooled"]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_fixed_positions_are_no_parameter():
    net = MODELS.build("vit_tiny", SMALL | dict(position="sincos"))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), image(32, 32), train=False))
    assert "pos_embed" not in variables["params"]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape), variables)
    tokens = net.apply(zero, image(32, 32), method="embed")
    column, row = 2, 1
    angles = np.array([column, row])[:, None] * 10000.0 ** -(np.arange(4) / 4)
    want = np.concatenate([np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])])
    np.testing.assert_allclose(tokens[0, row * 4 + column], want, atol=1e-6)


def test_layer_decay_orders_stem_layers_and_norm(vit):
    _, variables = vit
    params = {"backbone": variables["params"], "head": {"bias": jnp.zeros(2)}}
    tx = make_optimizer("sgd", optax.constant_schedule(1.0), momentum=0.0, layer_decay=0.5)
    ones = jax.tree.map(jnp.ones_like, params)
    updates = jax.tree.map(lambda u: -float(u.ravel()[0]), tx.update(ones, tx.init(params), params)[0])
    backbone = updates["backbone"]
    assert backbone["cls_token"] == backbone["pos_embed"] == backbone["patch_embed"]["kernel"] == 0.5**6
    assert [backbone[f"block0{i}"]["qkv"]["kernel"] for i in (1, 2, 3, 4)] == [0.5**5, 0.5**4, 0.5**3, 0.5**2]
    assert backbone["final_norm"]["scale"] == 0.5
    assert updates["head"]["bias"] == 1.0


def test_the_patch_projection_can_be_frozen(vit):
    _, variables = vit
    params = {"backbone": variables["params"]}
    tx = make_optimizer("sgd", optax.constant_schedule(1.0), frozen=("^backbone/patch_embed/",))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    still = {k for k, v in updates["backbone"].items() if not any(np.any(x) for x in jax.tree.leaves(v))}
    assert still == {"patch_embed"}


def test_initial_values_are_xaviers():
    net = MODELS.build("vit_small", dict(depth=4))
    params = jax.jit(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)["params"])()
    block = params["block01"]
    for got, fans in (
        (params["patch_embed"]["kernel"], 3 * 16 * 16 + 384),
        (block["qkv"]["kernel"], 384 + 384),
        (block["mlp"]["linear1"]["kernel"], 384 + 4 * 384),
    ):
        limit = np.sqrt(6 / fans)
        assert 0.98 * limit < np.abs(got).max() <= limit
    np.testing.assert_allclose(params["pos_embed"].std(), 0.02, rtol=0.05)


def test_it_can_be_told_from_other_backbones(vit):
    assert isinstance(vit[0], ViT)
    assert not isinstance(MODELS.build("resnet18"), ViT)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(depth=3),
        dict(heads=5),
        dict(width=18, heads=2),
        dict(patch=0),
        dict(image_size=230),
        dict(position="rotary"),
        dict(pool="max"),
        dict(dtype="float16"),
    ],
)
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(UserError, match=next(iter(kwargs))):
        MODELS.build("vit_tiny", kwargs)
