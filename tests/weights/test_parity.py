"""Networks of other libraries and paddings equal ours with the same weights, stage by stage."""

import jax
import numpy as np
import pytest

from radnet_jax.models import MODELS
from radnet_jax.trees import nested
from radnet_jax.weights import exporting, layouts, names
from tests.weights import miniatures

torch = pytest.importorskip("torch")


def fitting(section, seed=0):
    """Random weights that neither fade nor blow up."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in layouts.shapes_of(section).items():
        if name.endswith(("/scale", "/var")):
            array = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("/kernel"):
            array = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        else:
            array = rng.uniform(-0.3, 0.3, shape)
        arrays[name] = array.astype(np.float32)
    return arrays


def ours(section, arrays, image):
    module = MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})
    return jax.jit(lambda v, x: module.apply(v, x, train=False))(nested(arrays), image)


def load(net, section, arrays, layout):
    state = {k: torch.tensor(np.array(v)) for k, v in exporting.theirs(arrays, section, layout).items()}
    net.load_state_dict(state, strict=True)
    return net.eval()


def run(net, image):
    with torch.no_grad():
        return net(torch.tensor(image.transpose(0, 3, 1, 2).copy()))


def equal(got, want):
    want = want.numpy()
    assert 0.01 < want.std() < 50
    np.testing.assert_allclose(got, want.reshape(got.shape), atol=1e-4, rtol=0)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def images(side):
    return np.random.default_rng(0).standard_normal((2, side, side, 3)).astype(np.float32)


class Padded(torch.nn.Module):
    """A layer with TensorFlow's padding in front of it: nothing more before than after."""

    def __init__(self, layer, before, after):
        super().__init__()
        self.layer, self.pads = layer, (before, after, before, after)
        layer.padding = 0 if isinstance(layer, torch.nn.MaxPool2d) else (0, 0)

    def forward(self, x):
        return self.layer(torch.nn.functional.pad(x, self.pads))  # after a ReLU, zeros are as good as -inf


@pytest.mark.parametrize("padding", ["same", "fixed"])
def test_the_paddings_of_haiku_and_simclr(padding):
    """At stride 2 and even sizes: stem (2, 3), 3x3 (0, 1), pooling (0, 1); SimCLR's convolutions are symmetric."""
    torchvision = pytest.importorskip("torchvision")
    section = dict(name="resnet18", padding=padding)
    arrays, image = fitting(section), images(64)
    net = torchvision.models.resnet18()
    net.fc = torch.nn.Identity()
    load(net, section, arrays, "torchvision")
    net.maxpool = Padded(net.maxpool, 0, 1)
    if padding == "same":
        net.conv1 = Padded(net.conv1, 2, 3)
        for layer in (net.layer2, net.layer3, net.layer4):
            layer[0].conv1 = Padded(layer[0].conv1, 0, 1)
    seen = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        layer.register_forward_hook(lambda _, __, y: seen.append(nhwc(y)))
    pooled = run(net, image)
    got = ours(section, arrays, image)
    for a, b in zip([got["pooled"], *got["stages"]], [pooled, *seen]):
        equal(a, b)
    other = ours(dict(name="resnet18"), arrays, image)
    assert np.abs(other["pooled"] - got["pooled"]).max() > 1e-3  # the padding is part of the checkpoint


def test_timms_convnext_and_swin():
    timm = pytest.importorskip("timm")
    section = dict(name="convnext_tiny", depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
    arrays, image = fitting(section), images(64)
    net = timm.models.convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=0)
    load(net, section, arrays, "timm")
    got = ours(section, arrays, image)
    equal(got["pooled"], run(net, image))
    for a, b in zip(got["stages"], net.forward_intermediates(torch.tensor(image.transpose(0, 3, 1, 2).copy()))[1]):
        equal(a, nhwc(b.detach()))

    section = dict(name="swin_tiny", base_width=8, depths=(2, 2, 2, 2), head_width=4, window=4)
    arrays, image = fitting(section), images(128)
    net = timm.models.swin_transformer.SwinTransformer(
        img_size=128, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), window_size=4, num_classes=0
    )
    load(net, section, arrays, "timm")
    got = ours(section, arrays, image)
    equal(got["pooled"], run(net, image))


def test_hugging_faces():
    transformers = pytest.importorskip("transformers", minversion="5")
    section = dict(name="resnet50", base_width=4)
    arrays, image = fitting(section), images(64)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3])
    net = load(transformers.ResNetModel(config), section, arrays, "hugging_face")
    got = ours(section, arrays, image)
    equal(got["pooled"], run(net, image).pooler_output)
    equal(got["stages"][3], nhwc(run(net, image).last_hidden_state))

    section = dict(name="convnext_tiny", depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
    arrays = fitting(section)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], layer_norm_eps=1e-6)
    net = load(transformers.ConvNextModel(config), section, arrays, "hugging_face")
    equal(ours(section, arrays, image)["pooled"], run(net, image).pooler_output)

    section = dict(name="vit_tiny", width=16, depth=4, heads=2, patch=8, image_size=32)
    arrays, image = fitting(section), images(32)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    net = load(transformers.ViTModel(config, add_pooling_layer=False), section, arrays, "hugging_face")
    equal(ours(section, arrays, image)["pooled"], run(net, image).last_hidden_state[:, 0])

    section = dict(name="swin_tiny", base_width=8, depths=(2, 2, 2, 2), head_width=4, window=4)
    arrays, image = fitting(section), images(128)
    config = transformers.SwinConfig(
        image_size=128, embed_dim=8, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], window_size=4, layer_norm_eps=1e-5
    )
    net = load(transformers.SwinModel(config), section, arrays, "hugging_face")
    equal(ours(section, arrays, image)["pooled"], run(net, image).pooler_output)


def test_the_authors_names_are_timms_renamed():
    """ConvNeXt's and Swin's own files, by the renaming that timm is known for (and the benchmark applies)."""
    section = miniatures.SMALL["convnext"] | {"name": "convnext_tiny"}
    shapes = layouts.shapes_of(section)
    original = {e.ours: e.theirs[0] for e in layouts.entries(names.find("convnext_tiny", "original"), shapes)}
    timm = {e.ours: e.theirs[0] for e in layouts.entries(names.find("convnext_tiny", "timm"), shapes)}
    for name, theirs in original.items():
        parts = theirs.split(".")
        if parts[0] == "downsample_layers":
            parts = ["stem", *parts[2:]] if parts[1] == "0" else ["stages", parts[1], "downsample", *parts[2:]]
        elif parts[0] == "stages":
            parts = [*parts[:2], "blocks", *parts[2:]]
        elif parts[0] == "norm":
            parts = ["head", *parts]
        renamed = ".".join(parts).replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")
        assert renamed == timm[name]
