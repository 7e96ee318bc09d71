"""The ResNets against torchvision's, with the same random weights: every stage, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.models import MODELS

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

PARTS = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def theirs(name):
    """A network whose weights, offsets and statistics are all random, and which keeps the size of its maps."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None)
    last = "bn3" if hasattr(net.layer1[0], "bn3") else "bn2"
    with torch.no_grad():
        for path, module in net.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.1, 0.3) if path.endswith(last) else module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return net


def variables_of(net):
    """A torchvision network's weights under our names."""
    params, stats = {}, {}
    for name, value in net.state_dict().items():
        *path, kind = name.split(".")
        if path[0] == "fc" or kind == "num_batches_tracked":
            continue
        tree = stats if kind.startswith("running") else params
        if path[0].startswith("layer"):
            tree = tree.setdefault(f"stage{path[0][5:]}_block{int(path[1]) + 1}", {})
            layer = {"downsample.0": "down_conv", "downsample.1": "down_norm"}.get(".".join(path[2:]), path[2])
        else:
            layer = {"conv1": "stem_conv", "bn1": "stem_norm"}[path[0]]
        array = value.numpy().copy()
        leaf = {"kernel": array.transpose(2, 3, 1, 0)} if array.ndim == 4 else {PARTS[kind]: array}
        tree.setdefault(layer.replace("bn", "norm"), {}).update(leaf)
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats})


def outputs(net, x):
    """Pooled features and the maps of the four stages, channels last."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    stages = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        stages.append(x)
    return x.mean((2, 3)), [s.permute(0, 2, 3, 1) for s in stages]


# Through 152 layers with statistics of 16 values each, float32 in training comes to 1.0e-4.
@pytest.mark.parametrize(
    ("name", "train"),
    [
        *((name, False) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
        *((name, True) for name in ("resnet18", "resnet50", "resnet101")),
    ],
)
def test_each_stage_is_torchvisions(name, train):
    net = theirs(name).train(train)
    variables = variables_of(net)
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype(np.float32)
    ours = MODELS.build(name)
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(lambda: ours.init(jax.random.key(0), x[:1], train=False))
    )
    with torch.no_grad():
        pooled, stages = outputs(net, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    got, updates = jax.jit(lambda v, x: ours.apply(v, x, train=train, mutable=["batch_stats"]))(variables, x)
    assert 0.1 < pooled.abs().max() < 100
    for a, b in zip([*got["stages"], got["pooled"]], [*stages, pooled]):
        np.testing.assert_allclose(a, b, atol=1e-4)
    if train:
        stem = updates["batch_stats"]["stem_norm"]
        np.testing.assert_allclose(stem["mean"], net.bn1.running_mean, atol=1e-5)
