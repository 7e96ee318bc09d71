"""Backbones equal PyTorch's (torchvision's and timm's) with the same weights, map by map."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.models import MODELS
from radnet_jax.weights import layouts
from tests.models.torch_weights import convert, unused

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

HEADS = r"(fc|head|classifier|classifier\.[0-9])\.(weight|bias)"


def randomised(net, *, gain=3.0, seed=0):
    """The network in eval mode with every weight and statistic drawn; a gain of 3 keeps the variance."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(x, low, high):
        x.copy_(torch.rand(x.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, x in net.state_dict().items():
            if not x.is_floating_point():
                continue
            if name.endswith(("running_var", "layer_scale")) or (name.endswith("weight") and x.ndim == 1):
                uniform(x, 0.5, 1.5)
            elif x.ndim == 1:
                uniform(x, -0.3, 0.3)
            else:
                side = (gain / x[0].numel()) ** 0.5 if name.endswith("weight") else 1.0
                uniform(x, -side, side)
    return net.eval()


def assert_equal(net, ours, maps, pooled, size, head=None):
    """Compares ours with `maps(x)`, `pooled(x)` and, by its `head`, logits of the PyTorch network for an image size."""
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    name, arguments = ours[0], ours[1] if len(ours) > 1 else {}
    pooled_by_mean = arguments.get("pool") == "mean"
    layout = ("timm_mean" if pooled_by_mean else "timm") if name.startswith("vit") else "torchvision"
    variables = convert(name, state, layout, **arguments)
    assert all(re.fullmatch(f"{HEADS}|{layouts.BUFFERS}", n) for n in unused(name, state, layout, **arguments))
    module = MODELS.build(*ours)
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    wanted = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted)
    got = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)
    with torch.no_grad():
        want_maps, want = maps(torch.tensor(x.transpose(0, 3, 1, 2))), pooled(torch.tensor(x.transpose(0, 3, 1, 2)))
    assert len(want_maps) == 4
    for a, b in zip([got["pooled"], *got["stages"]], [want, *want_maps]):
        assert 0.1 < b.std() < 50  # neither faded nor blown up: the tolerance means something
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4, rtol=0)
    if head is not None:
        with torch.no_grad():
            logits = head(torch.tensor(np.asarray(got["pooled"])))
            np.testing.assert_allclose(logits, net(torch.tensor(x.transpose(0, 3, 1, 2))), atol=1e-4, rtol=0)


def outputs(modules):
    """Returns a function that runs a network and hands out what these of its modules returned."""

    def run(net, x):
        seen = []
        hooks = [m.register_forward_hook(lambda _, __, y: seen.append(y.clone())) for m in modules]
        net(x)
        for hook in hooks:
            hook.remove()
        return seen

    return run


def nhwc(maps):
    return [x.permute(0, 2, 3, 1) for x in maps]


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet(depth):
    net = randomised(getattr(torchvision.models, f"resnet{depth}")(num_classes=1))
    maps = lambda x: nhwc(outputs([net.layer1, net.layer2, net.layer3, net.layer4])(net, x))  # noqa: E731
    pooled = lambda x: outputs([net.avgpool])(net, x)[0].flatten(1)  # noqa: E731
    assert_equal(net, (f"resnet{depth}",), maps, pooled, (64, 64), net.fc)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit(pool):
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=64,
        patch_size=16,
        embed_dim=48,
        depth=6,
        num_heads=3,
        num_classes=0,
        global_pool={"cls": "token", "mean": "avg"}[pool],
    )
    kwargs = dict(image_size=64, width=48, depth=6, heads=3, pool=pool)
    maps = lambda x: nhwc(net.forward_intermediates(x, indices=[1, 2, 4, 5])[1])  # noqa: E731
    assert_equal(randomised(net), ("vit_tiny", kwargs), maps, net, (64, 64))


def test_convnext():
    depths, widths = (1, 2, 3, 1), (8, 16, 24, 40)
    blocks = zip(widths, (*widths[1:], None), depths)
    net = torchvision.models.ConvNeXt([torchvision.models.convnext.CNBlockConfig(*b) for b in blocks], num_classes=1)
    maps = lambda x: nhwc(outputs([net.features[i] for i in (1, 3, 5, 7)])(net, x))  # noqa: E731
    pooled = lambda x: outputs([net.classifier[0]])(net, x)[0].flatten(1)  # noqa: E731
    # 76: rests are left out, in the stem and in front of the stages.
    kwargs = dict(depths=depths, widths=widths)
    assert_equal(randomised(net), ("convnext_tiny", kwargs), maps, pooled, (64, 76), net.classifier[2])


# 64: maps of 16 to 2, windows padded and shifted; 60x94: odd maps, and a rest in the stem; 112: windows divide.
@pytest.mark.parametrize("size", [(64, 64), (60, 94), (112, 112)])
def test_swin(size):
    depths = (2, 2, 2, 2)
    net = torchvision.models.SwinTransformer([4, 4], 16, depths, [2, 4, 8, 16], [7, 7], num_classes=1)
    kwargs = dict(base_width=16, depths=depths, head_width=8)
    maps = lambda x: outputs([net.features[i] for i in (1, 3, 5, 7)])(net, x)  # noqa: E731
    pooled = lambda x: outputs([net.flatten])(net, x)[0]  # noqa: E731
    assert_equal(randomised(net), ("swin_tiny", kwargs), maps, pooled, size, net.head)


@pytest.mark.parametrize(("size", "ends"), [("small", (1, 3, 8, 12)), ("large", (3, 6, 12, 16))])
def test_mobilenet(size, ends):
    net = randomised(getattr(torchvision.models, f"mobilenet_v3_{size}")(num_classes=1, width_mult=0.4))
    maps = lambda x: nhwc(outputs([net.features[i] for i in ends])(net, x))  # noqa: E731
    pooled = lambda x: outputs([net.avgpool])(net, x)[0].flatten(1)  # noqa: E731
    assert_equal(net, (f"mobilenet_v3_{size}", dict(multiplier=0.4)), maps, pooled, (72, 64), net.classifier)


def test_densenet():
    depths = (2, 3, 4, 2)
    net = randomised(torchvision.models.DenseNet(8, depths, 16, num_classes=1))
    norms = [net.features.transition1.norm, net.features.transition2.norm, net.features.transition3.norm]
    run = outputs([*norms, net.features.norm5])
    maps = lambda x: nhwc(torch.relu(y) for y in run(net, x))  # noqa: E731
    pooled = lambda x: torch.relu(run(net, x)[3]).mean((2, 3))  # noqa: E731
    assert_equal(net, ("densenet121", dict(depths=depths, growth=8)), maps, pooled, (64, 76), net.classifier)


TIMM = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
}


# The shortest resnet is not in torchvision.
@pytest.mark.parametrize("name", sorted(set(MODELS.names()) - {"resnet10"}))
def test_public_weights_fit(name):
    """Every name of the full network's weights has its place here, of the same shape, and no place is left empty."""
    swin = {"swin_tiny": "swin_t", "swin_small": "swin_s", "swin_base": "swin_b"}
    with torch.device("meta"):
        if name in TIMM:
            state = timm.create_model(TIMM[name]).state_dict()
        else:
            state = torchvision.models.get_model(swin.get(name, name)).state_dict()
    layout = "timm" if name in TIMM else "torchvision"
    shapes = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in state.items()}
    assert all(re.fullmatch(f"{HEADS}|{layouts.BUFFERS}", n) for n in unused(name, shapes, layout))
    variables = convert(name, shapes, layout)
    net = MODELS.build(name)
    wanted = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(wanted))
