"""Decoders: on every backbone, against segmentation_models and PyTorch with the same weights, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import trees
from radnet_jax.errors import UserError
from radnet_jax.models import DECODERS, MODELS
from radnet_jax.models.upernet import adaptive_mean
from radnet_jax.trees import nested
from radnet_jax.weights import layouts
from radnet_jax.weights.layouts import Layout
from tests.models import torch_weights
from tests.models.test_contract import SMALLEST, drawn, images, small

WIDTHS = dict(widths=(12, 8, 8, 6, 4))
SMALL = {
    "radnet": ("unet", dict(kind="radnet", **WIDTHS)),
    "btl": ("unet", WIDTHS),
    "upernet": ("upernet", {"width": 6}),
}


def make(name, out=3, groups=1, **changes):
    decoder, kwargs = SMALL[name]
    return DECODERS.build(decoder, kwargs | changes, out=out, groups=groups)


def maps_of(backbone, size):
    x = images(*size, 3, n=2)
    out, _ = jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), x, train=False))
    return out


def shapes(decoder, maps, size):
    run = lambda maps: decoder.init_with_output(jax.random.key(0), maps, size, train=False)  # noqa: E731
    return jax.eval_shape(run, maps)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("backbone", SMALLEST)
@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
def test_logits_of_each_pixel_on_every_backbone(name, backbone, size):
    if backbone.startswith("vit") and name != "upernet":
        pytest.skip("refused below")
    logits, _ = shapes(make(name), maps_of(small(backbone), size), size)
    assert logits.shape == (2, *size, 3)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("size", [(24, 24), (33, 47), (75, 62)])
def test_sides_that_halve_unevenly(size):
    backbone = small("resnet10")
    for name in SMALL:
        logits, _ = shapes(make(name), maps_of(backbone, size), size)
        assert logits.shape == (2, *size, 3)


def test_a_stem_for_small_images_needs_fewer_blocks():
    maps = maps_of(small("resnet10", stem="conv3"), (32, 32))
    logits, variables = shapes(make("btl"), maps, (32, 32))
    assert logits.shape == (2, 32, 32, 3)
    assert sorted(k for k in variables["params"] if k.startswith("block")) == ["block1", "block2", "block3"]
    assert variables["params"]["block3"]["conv2"]["kernel"].shape[-1] == 4  # the last widths


def test_what_is_refused():
    maps = maps_of(small("vit_tiny"), (32, 32))
    with pytest.raises(UserError, match=r"maps of several strides.*upernet"):
        shapes(make("btl"), maps, (32, 32))
    maps = maps_of(small("resnet10"), (64, 64))
    with pytest.raises(UserError, match=r"too few widths.*5"):
        shapes(make("btl", widths=(8, 8)), maps, (64, 64))
    with pytest.raises(UserError, match=r"follow.*multiples of 32"):
        shapes(make("btl"), maps, (100, 64))
    with pytest.raises(UserError, match="unknown kind of U-Net"):
        make("btl", kind="rednet")
    with pytest.raises(UserError, match="widths 2"):
        make("btl", widths=(8, 0))


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_learns_and_groups_have_statistics_of_their_own(name):
    decoder, grouped = make(name), make(name, groups=2)
    x = jax.random.normal(jax.random.key(0), (4, 64, 64, 3))
    maps = {"stem": x[:, ::2, ::2], "stages": [x[:, ::s, ::s] for s in (4, 8, 16, 32)]}
    variables = drawn(jax.eval_shape(lambda: decoder.init(jax.random.key(0), maps, (64, 64), train=False)))

    def apply(net, params, maps):
        return net.apply({**variables, "params": params}, maps, (64, 64), train=True, mutable=["batch_stats"])[0]

    @jax.jit
    def run(params, maps):
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(apply(decoder, p, maps))))(params)
        half = jax.tree.map(lambda x: x[:2], maps)
        return gradient, apply(grouped, params, maps)[:2], apply(decoder, params, half)

    gradient, together, alone = run(variables["params"], maps)
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(g).all(), path
        assert np.abs(g).max() > 0, path
    np.testing.assert_allclose(together, alone, atol=2e-4)


@pytest.mark.parametrize("side", [1, 2, 7, 12])
def test_adaptive_mean(side):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, side, side + 1, 3)).astype(np.float32)
    for n in (1, 2, 3, 6):
        want = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x).movedim(-1, 1), n).movedim(1, -1)
        np.testing.assert_allclose(adaptive_mean(x, n), want, atol=1e-6)


BTL = Layout(
    lambda modules: [
        (r"block(\d)/(conv|norm)(\d)", lambda i, part, j: f"decoder.blocks.{i - 1}.conv{j}.{int(part == 'norm')}"),
        ("head", "segmentation_head.0"),
    ]
)


@pytest.mark.parametrize("train", [False, True])
def test_the_btl_decoder_is_that_of_segmentation_models(train):
    torch = pytest.importorskip("torch")
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=3)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    state = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(3, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        want = theirs.train(train)(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
    of_encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    backbone, decoder = MODELS.build("resnet18"), DECODERS.build("unet", {"kind": "btl"}, out=3, groups=1)
    of_backbone = torch_weights.convert("resnet18", of_encoder)
    maps = jax.eval_shape(lambda x: backbone.apply(of_backbone, x, train=False), x)
    init = jax.eval_shape(lambda maps: decoder.init(jax.random.key(0), maps, x.shape[1:3], train=False), maps)
    entries = layouts.entries(BTL, {name: leaf.shape for name, leaf in trees.named_leaves(dict(init))})
    of_decoder = nested({e.ours: e.to_ours([state[name] for name in e.theirs]) for e in entries})

    @jax.jit
    def ours(x):
        maps, _ = backbone.apply(of_backbone, x, train=train, mutable=["batch_stats"])
        return decoder.apply(of_decoder, maps, x.shape[1:3], train=train, mutable=["batch_stats"])[0]

    np.testing.assert_allclose(ours(x), want, atol=2e-3 if train else 2e-4, rtol=1e-3)


def test_a_block_of_the_radnet_decoder_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, skip = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 5, 6), (2, 8, 10, 3)))
    up, conv = (rng.normal(size=s).astype(np.float32) for s in ((6, 7, 4, 4), (7, 10, 3, 3)))
    channels_first = lambda a: torch.tensor(a).movedim(-1, 1)  # noqa: E731
    norm = lambda y: torch.relu(torch.nn.functional.batch_norm(y, None, None, training=True))  # noqa: E731
    y = norm(torch.nn.functional.conv_transpose2d(channels_first(x), torch.tensor(up), stride=2, padding=1))
    y = torch.cat([y, channels_first(skip)], dim=1)
    want = norm(torch.nn.functional.conv2d(y, torch.tensor(conv), padding=1)).movedim(1, -1)
    net = make("radnet", widths=(7,), out=1)
    maps = {"stages": [skip, x]}
    variables = drawn(jax.eval_shape(lambda: net.init(jax.random.key(0), maps, (8, 10), train=False)))
    block = variables["params"]["block1"]
    block["up"]["kernel"] = up[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)  # which torch turns round
    block["conv1"]["kernel"] = conv.transpose(2, 3, 1, 0)
    for name in ("up_norm", "norm1"):
        block[name] = {"scale": np.ones(7, np.float32), "bias": np.zeros(7, np.float32)}
    _, seen = net.apply(variables, maps, (8, 10), train=True, mutable=["batch_stats", "intermediates"],
                        capture_intermediates=lambda m, _: m.name == "block1")  # fmt: skip
    np.testing.assert_allclose(seen["intermediates"]["block1"]["__call__"][0], want, atol=1e-4)


def test_initial_weights_are_pytorchs():
    """Of a transposed convolution, PyTorch takes the output's channels for the fan in."""
    net = make("radnet", widths=(32,), out=4)
    x = jnp.zeros((1, 4, 4, 64))
    params = net.init(jax.random.key(0), {"stages": [jnp.zeros((1, 8, 8, 32)), x]}, (8, 8), train=False)["params"]
    bounds = {
        (32 * 16) ** -0.5: params["block1"]["up"]["kernel"],
        (64 * 9) ** -0.5: params["block1"]["conv1"]["kernel"],
        32**-0.5: params["head"]["kernel"],
    }
    for bound, kernel in bounds.items():
        assert 0.9 * bound < np.abs(kernel).max() <= bound
    assert 0 < np.abs(params["head"]["bias"]).max() <= 32**-0.5
