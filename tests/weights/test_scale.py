"""Rescaled weights compute what they did, and have the norms of fresh ones."""

import jax
import numpy as np
import pytest

from radnet_jax import trees
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.trees import nested
from radnet_jax.weights import inspecting, scale
from tests.weights import miniatures

SECTIONS = {
    "basic": dict(name="resnet10", base_width=4),
    "bottleneck": dict(name="resnet50", base_width=4, padding="same"),
    "mobilenet": dict(name="mobilenet_v3_small", multiplier=0.25),
    "densenet": dict(name="densenet121", depths=(2, 1, 2, 2), growth=4),
}


def build(section):
    return MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})


def start(section, factor):
    """Weights that differ from fresh ones by a factor, with the statistics of what the layers really see."""
    module = build(section)
    image = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(module.init, static_argnames="train")(jax.random.key(0), image, train=False)
    variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, x: x * factor if str(path[-1]).strip("[]'") == "kernel" and x.ndim == 4 else x, variables["params"]
    )
    memoryless = module.clone(norm_momentum=0.0)
    run = jax.jit(lambda v, x: memoryless.apply(v, x, train=True, mutable=["batch_stats"]))
    updates = run({**variables, "params": scaled}, image)[1]
    flat = {}
    for collection, tree in (("params", scaled), ("batch_stats", updates["batch_stats"])):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            flat[f"{collection}/{jax.tree_util.keystr(path, simple=True, separator='/')}"] = np.asarray(leaf)
    return module, flat, image


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("basic", 16.8),
        pytest.param("bottleneck", 0.5, marks=pytest.mark.slow),
        pytest.param("mobilenet", 0.25, marks=pytest.mark.slow),
        ("densenet", 16.8),
    ],
)
def test_the_function_is_unchanged(kind, factor):
    section = SECTIONS[kind]
    module, arrays, image = start(section, factor)
    rescaled = scale.rescale(arrays, section, to="initial")
    run = jax.jit(lambda v, x: module.apply(v, x, train=False))
    # What float32 can tell: what it makes to round each kernel otherwise in its last bit.
    rounded = {k: np.nextafter(v, np.float32(np.inf)) if k.endswith("/kernel") else v for k, v in arrays.items()}
    before, after, noise = (run(nested(x), image) for x in (arrays, rescaled, rounded))
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (after, before, noise))):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, atol=max(10 * np.abs(c - b).max(), 1e-5 * np.abs(b).max()), rtol=0)
        assert np.abs(c - b).max() < 1e-3 * np.abs(b).max()
    fan = "fan_in" if kind == "densenet" else "fan_out"
    for name, kernel in rescaled.items():
        if name.endswith("/kernel") and "squeeze" not in name:
            assert np.linalg.norm(kernel) == pytest.approx(scale.fresh_norm(kernel, fan), rel=1e-5), name
    if kind != "mobilenet":  # whose squeeze and excite is left alone
        ratio = inspecting.norms(arrays)["total"] / inspecting.norms(rescaled)["total"]
        assert ratio == pytest.approx(factor, rel=0.15)


def test_the_formula_is_exact():
    """Of one kernel and the BatchNorm behind it, in float64."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(50, 4)), rng.normal(size=(1, 1, 4, 3)).astype(np.float32)
    arrays = {"params/conv1/kernel": kernel, "batch_stats/norm1/mean": rng.normal(size=3).astype(np.float32)}
    arrays["batch_stats/norm1/var"] = rng.uniform(0.001, 2, 3).astype(np.float32)
    scaled = scale.multiply(arrays, {"name": "resnet10", "norm_epsilon": 1e-3}, lambda kernel: 4.0)

    def normalised(arrays):
        mean, var = (arrays[f"batch_stats/norm1/{k}"].astype(np.float64) for k in ("mean", "var"))
        return (x @ arrays["params/conv1/kernel"][0, 0].astype(np.float64) - mean) / np.sqrt(var + 1e-3)

    np.testing.assert_allclose(normalised(scaled), normalised(arrays), rtol=1e-6)
    np.testing.assert_array_equal(scaled["params/conv1/kernel"], 4 * kernel)


def test_fresh_norms_are_those_of_fresh_networks():
    for kind in ("basic", "densenet"):
        module = build(SECTIONS[kind])
        params = jax.jit(module.init, static_argnames="train")(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False)
        fresh = {k: v for k, v in trees.named_leaves(params) if k.endswith("/kernel") and v.size > 500}
        fan = scale._PROVABLE["densenet" if kind == "densenet" else "resnet"]
        for name, kernel in fresh.items():
            assert np.linalg.norm(kernel) == pytest.approx(scale.fresh_norm(kernel, fan), rel=0.15), name


def test_norms_behind_convolutions():
    arrays = miniatures.ours(dict(name="resnet50", base_width=4))
    behind = scale.norms_behind(arrays, dict(name="resnet50"))
    assert behind["stem_conv"] == [("stem_norm", 0)]
    assert behind["stage1_block2/conv3"] == [("stage1_block2/norm3", 0)]
    assert behind["stage1_block1/down_conv"] == [("stage1_block1/down_norm", 0)]
    mobilenet = dict(name="mobilenet_v3_small", multiplier=0.25)
    behind = scale.norms_behind(miniatures.ours(mobilenet), mobilenet)
    assert behind["block03/expand_conv"] == [("block03/expand_norm", 0)]
    assert not any("squeeze" in conv for conv in behind)


def test_a_densenets_maps_are_seen_by_the_norms_of_all_later_layers():
    densenet = dict(name="densenet121", depths=(2, 1, 2, 1), growth=4)
    behind = scale.norms_behind(miniatures.ours(densenet), densenet)
    assert behind["stem_conv"] == [("stem_norm", 0)]  # 8 channels
    assert behind["stage1_layer01/conv1"] == [("stage1_layer01/norm2", 0)]
    assert behind["stage1_layer01/conv2"] == [("stage1_layer02/norm1", 8), ("stage2_transition/norm", 8)]
    assert behind["stage1_layer02/conv2"] == [("stage2_transition/norm", 12)]
    assert behind["stage2_transition/conv"] == [("stage2_layer01/norm1", 0), ("stage3_transition/norm", 0)]
    assert behind["stage4_layer01/conv2"] == [("final_norm", 7)]  # 8 + 2 x 4, 8 + 4, 6 + 2 x 4, each halved


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_tiny", "swin_tiny"])
def test_it_is_refused_where_it_can_not_be_shown(name):
    with pytest.raises(UserError, match=f"would change what {name} computes"):
        scale.rescale({}, {"name": name}, to="initial")


def test_a_dead_channel_keeps_what_it_computes():
    """Public files have some: made smaller, they would need a negative variance."""
    section = SECTIONS["basic"]
    module, arrays, image = start(section, 16.8)
    filters = arrays["params/stem_conv/kernel"].copy()
    filters[..., 1] = 0
    var, mean = (arrays[f"batch_stats/stem_norm/{part}"].copy() for part in ("var", "mean"))
    var[1], mean[1] = 5.6e-45, 1e-3
    changed = {"params/stem_conv/kernel": filters, "batch_stats/stem_norm/var": var, "batch_stats/stem_norm/mean": mean}
    arrays = arrays | changed
    rescaled = scale.rescale(arrays, section, to="initial")
    assert rescaled["batch_stats/stem_norm/var"].min() >= 0
    assert np.linalg.norm(rescaled["params/stem_conv/kernel"]) == pytest.approx(
        scale.fresh_norm(filters, "fan_out"), rel=1e-5
    )
    run = jax.jit(lambda v, x: module.apply(v, x, train=False)["stages"][0])
    before, after = run(nested(arrays), image), run(nested(rescaled), image)
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max(), rtol=0)


def test_a_kernel_of_zeros_is_refused():
    section = SECTIONS["basic"]
    arrays = miniatures.ours(section)
    arrays["params/stem_conv/kernel"] = np.zeros_like(arrays["params/stem_conv/kernel"])
    with pytest.raises(UserError, match="stem_conv can't be rescaled"):
        scale.rescale(arrays, section, to="initial")


def test_odd_statistics_are_told():
    arrays = miniatures.ours(SECTIONS["basic"])
    fresh = {k: np.zeros_like(v) if k.endswith("/mean") else np.ones_like(v) for k, v in arrays.items()}
    assert "before any training" in inspecting.batch_statistics(fresh, None, "x")["odd"][0]
    arrays["batch_stats/stem_norm/var"] = np.array([0, 56296.0, 1, 1], np.float32)
    odd = " ".join(inspecting.batch_statistics(arrays, 0, "x")["odd"])
    assert "1 channel(s) of variance 0" in odd
    assert "56296" in odd
    assert "no batch was seen" in odd
    assert inspecting.batch_statistics({"params/x/kernel": np.ones((2, 2))}, None, "x") == {}
