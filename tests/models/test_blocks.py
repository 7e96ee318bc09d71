"""Every block of every kind of backbone, pooled."""

import jax
import numpy as np
import pytest

from radnet_jax.models.blocks import pooled_blocks
from tests.models.test_contract import SMALLEST, drawn, images, shapes, small

BLOCKS = {
    "resnet10": ["stage1_block1", "stage2_block1", "stage3_block1", "stage4_block1"],
    "vit_tiny": ["block01", "block02", "block03", "block04"],
    "convnext_tiny": ["stage1_block1", "stage2_block1", "stage3_block1", "stage4_block1"],
    "swin_tiny": ["stage1_block1", "stage1_block2", "stage2_block1", "stage3_block1", "stage4_block1"],
    "mobilenet_v3_small": [f"block{i:02d}" for i in range(1, 12)],
    "densenet121": ["stage1_layer01", "stage2_layer01", "stage2_layer02", "stage3_layer01", "stage4_layer01"],
}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_blocks_of_each_backbone(name):
    net, x = small(name), images(32, 32, 3)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    found = jax.eval_shape(lambda v: pooled_blocks(net, v, x), variables)
    assert list(found) == BLOCKS[name]
    assert all(v.shape[0] == 4 and v.ndim == 2 and v.dtype == np.float32 for v in found.values())


def test_sixteen_blocks_of_a_resnet50():
    net, x = small("resnet50"), images(32, 32, 3)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    found = jax.eval_shape(lambda v: pooled_blocks(net, v, x), variables)
    assert [v.shape[1] for v in found.values()] == [16] * 3 + [32] * 4 + [64] * 6 + [128] * 3


def seen(name):
    """A small network's output, and that of its blocks."""
    net, x = small(name), images(32, 32, 3)
    variables = drawn(shapes(net, x)[1])
    return jax.jit(lambda v: (net.apply(v, x, train=False), pooled_blocks(net, v, x)))(variables)


def test_the_last_block_is_the_features():
    """Of a ResNet; and the last block of each stage is the mean of that stage's map."""
    out, found = seen("resnet10")
    assert np.asarray(found["stage4_block1"]) == pytest.approx(np.asarray(out["pooled"]), rel=1e-5)
    for value, stage in zip(found.values(), out["stages"]):
        assert np.asarray(value) == pytest.approx(np.asarray(stage).mean(axis=(1, 2)), rel=1e-5)


def test_a_vits_patches_without_its_class_token():
    out, found = seen("vit_tiny")
    for value, stage in zip(found.values(), out["stages"]):
        assert np.asarray(value) == pytest.approx(np.asarray(stage).mean(axis=(1, 2)), abs=1e-5)
