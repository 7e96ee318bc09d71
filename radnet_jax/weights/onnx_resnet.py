"""A ResNet as an ONNX graph, built node by node; needs the package onnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from radnet_jax.models import MODELS
from radnet_jax.models.resnet import BLOCKS

_OPSET = 17


class _Graph:
    """Collects nodes and weights; every method returns the name of what its node gives."""

    def __init__(self, arrays: Mapping[str, np.ndarray], padding: str, epsilon: float):
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self._arrays, self._padding, self._epsilon = arrays, padding, epsilon
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def _weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(self._numpy.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(self._helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def conv(self, x: str, name: str, strides: int) -> str:
        kernel = self._arrays[f"params/{name}/kernel"].transpose(3, 2, 0, 1)
        side = (kernel.shape[2] - 1) // 2
        pads = {"auto_pad": "SAME_UPPER"} if self._padding == "same" else {"pads": [side] * 4}
        weight = self._weight(f"{name}/kernel", kernel)
        return self.node("Conv", [x, weight], name, strides=[strides] * 2, kernel_shape=list(kernel.shape[2:]), **pads)

    def norm(self, x: str, name: str) -> str:
        parts = [f"params/{name}/scale", f"params/{name}/bias", f"batch_stats/{name}/mean", f"batch_stats/{name}/var"]
        weights = [self._weight(part.partition("/")[2], self._arrays[part]) for part in parts]
        return self.node("BatchNormalization", [x, *weights], name, epsilon=self._epsilon)

    def pool(self, x: str) -> str:
        pads = {"pads": [1] * 4} if self._padding == "torch" else {"auto_pad": "SAME_UPPER"}
        return self.node("MaxPool", [x], "stem_pool", kernel_shape=[3, 3], strides=[2, 2], **pads)


def build(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], *, channels: int, size: tuple[int, int]) -> Any:
    """Returns the ONNX model of a ResNet: "image" [n c h w], standardised, to "features" [n d]; n, h and w are free.

    Args:
      arrays: by name, "params/..." and "batch_stats/...".
      section: the backbone section.
      channels: of the image.
      size: the contract's, for the description.
    """
    from onnx import TensorProto, checker, helper

    depth = int(section["name"].removeprefix("resnet"))
    section = {**MODELS.defaults(section["name"]), **section}
    graph = _Graph(arrays, section["padding"], section["norm_epsilon"])
    small = section["stem"] == "conv3"
    x = graph.norm(graph.conv("image", "stem_conv", 1 if small else 2), "stem_norm")
    x = graph.node("Relu", [x], "stem_relu")
    x = x if small else graph.pool(x)
    for i, blocks in enumerate(BLOCKS[depth], start=1):
        for j in range(1, blocks + 1):
            x = _block(graph, x, f"stage{i}_block{j}", strides=2 if i > 1 and j == 1 else 1, bottleneck=depth >= 50)
    x = graph.node("GlobalAveragePool", [x], "pooled")
    graph.node("Flatten", [x], "features")
    width = arrays[f"params/stage4_block1/conv{3 if depth >= 50 else 2}/kernel"].shape[-1]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, "h", "w"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])
    described = f"{section['name']}; image is standardised as preprocessing.json says, {size[0]} x {size[1]} px"
    made = helper.make_graph(graph.nodes, section["name"], [image], [features], graph.weights, doc_string=described)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="radnet_jax", ir_version=9
    )
    checker.check_model(model)
    return model


def _block(graph: _Graph, x: str, name: str, *, strides: int, bottleneck: bool) -> str:
    last = 3 if bottleneck else 2
    strided = 2 if bottleneck else 1
    y = x
    for k in range(1, last + 1):
        y = graph.norm(graph.conv(y, f"{name}/conv{k}", strides if k == strided else 1), f"{name}/norm{k}")
        if k < last:
            y = graph.node("Relu", [y], f"{name}/relu{k}")
    if f"params/{name}/down_conv/kernel" in graph._arrays:
        x = graph.norm(graph.conv(x, f"{name}/down_conv", strides), f"{name}/down_norm")
    return graph.node("Relu", [graph.node("Add", [x, y], f"{name}/sum")], f"{name}/out")
