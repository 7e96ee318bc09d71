"""From the names and layouts of PyTorch's weights to ours, for each family of backbones.

A family is a function from the names of a state dict to rules: (regex of a module, our path of it). None leaves it out,
as the classifier. A module that no rule matches is refused, so that nothing is lost in silence.
"""

from collections.abc import Callable, Collection, Mapping
import re

import numpy as np

Rule = tuple[str, str | Callable[..., str] | None]

NO_WEIGHTS = ("num_batches_tracked", "relative_position_index")
LEAVES = {
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
    "relative_position_bias_table": ("params", "relative_position/bias"),
    "layer_scale": ("params", "layer_scale/scale"),
    "cls_token": ("params", "cls_token"),
    "pos_embed": ("params", "pos_embed"),
}


def convert(rules: Collection[Rule], state: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Returns Linen's variables of a backbone from a state dict.

    Args:
      rules: of the family, see the functions below.
      state: PyTorch's names and arrays; anything with `shape`, `transpose` and `reshape` does.

    Raises:
      KeyError: a name that no rule knows.
    """
    variables: dict[str, dict] = {"params": {}}
    for name, array in state.items():
        module, _, leaf = name.rpartition(".")
        ours = None if leaf in NO_WEIGHTS else _path(module, rules)
        if ours is None:
            continue
        collection, last, value = _leaf(leaf, array)
        path = [*filter(None, ours.split("/")), *last.split("/")]
        node = variables.setdefault(collection, {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return variables


def _leaf(leaf: str, array: np.ndarray) -> tuple[str, str, np.ndarray]:
    if leaf == "weight":
        if len(array.shape) == 1:
            return "params", "scale", array
        return "params", "kernel", array.transpose((2, 3, 1, 0) if len(array.shape) == 4 else (1, 0))
    collection, last = LEAVES[leaf]
    return collection, last, array.reshape(-1) if leaf == "layer_scale" else array


def _path(module: str, rules: Collection[Rule]) -> str | None:
    for pattern, path in rules:
        match = re.fullmatch(pattern, module)
        if match:
            return path(*match.groups()) if callable(path) else path
    raise KeyError(f"no rule for {module!r}")


def _of(names: Mapping[str, str], prefix: Callable[..., str]) -> Callable[..., str]:
    """A path whose last part is looked up."""
    return lambda *groups: f"{prefix(*groups[:-1])}/{names[groups[-1]]}"


def resnet(names: Collection[str]) -> list[Rule]:
    """torchvision's."""
    del names
    block = lambda i, j: f"stage{i}_block{int(j) + 1}"  # noqa: E731
    return [
        ("conv1", "stem_conv"),
        ("bn1", "stem_norm"),
        (r"layer(\d)\.(\d+)\.conv(\d)", lambda i, j, k: f"{block(i, j)}/conv{k}"),
        (r"layer(\d)\.(\d+)\.bn(\d)", lambda i, j, k: f"{block(i, j)}/norm{k}"),
        (r"layer(\d)\.(\d+)\.downsample\.([01])", _of({"0": "down_conv", "1": "down_norm"}, block)),
        ("fc", None),
    ]


def vit(names: Collection[str]) -> list[Rule]:
    """timm's, and with it those of DeiT, DINO, MAE and MoCo v3."""
    del names
    parts = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.qkv": "qkv",
        "attn.proj": "out",
        "mlp.fc1": "mlp/linear1",
        "mlp.fc2": "mlp/linear2",
    }
    return [
        ("", ""),
        (r"patch_embed\.proj", "patch_embed"),
        (r"blocks\.(\d+)\.(.*)", _of(parts, lambda i: f"block{int(i) + 1:02d}")),
        ("norm|fc_norm", "final_norm"),
        ("head", None),
    ]


def _stage(i: str) -> int:
    """torchvision counts stem, blocks, reduction, blocks, ...: 1, 3, 5, 7 are blocks; 2, 4, 6 lead to the next."""
    return (int(i) + 2) // 2 if int(i) % 2 == 0 else (int(i) + 1) // 2


def _stage_block(i: str, j: str) -> str:
    return f"stage{_stage(i)}_block{int(j) + 1}"


def convnext(names: Collection[str]) -> list[Rule]:
    """torchvision's."""
    del names
    parts = {"0": "conv", "2": "norm", "3": "mlp/linear1", "5": "mlp/linear2"}
    return [
        (r"features\.0\.0", "stem_conv"),
        (r"features\.0\.1", "stem_norm"),
        (r"features\.([1357])\.(\d+)", _stage_block),
        (r"features\.([1357])\.(\d+)\.block\.(\d)", _of(parts, _stage_block)),
        (r"features\.([246])\.([01])", _of({"0": "norm", "1": "conv"}, lambda i: f"stage{_stage(i)}_reduce")),
        (r"classifier\.0", "final_norm"),
        (r"classifier\.2", None),
    ]


def swin(names: Collection[str]) -> list[Rule]:
    """torchvision's."""
    del names
    parts = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn": "attention",
        "attn.qkv": "attention/qkv",
        "attn.proj": "attention/out",
        "mlp.0": "mlp/linear1",
        "mlp.3": "mlp/linear2",
    }
    merge = {"norm": "norm", "reduction": "linear"}
    return [
        (r"features\.0\.0", "stem_conv"),
        (r"features\.0\.2", "stem_norm"),
        (r"features\.([246])\.(norm|reduction)", _of(merge, lambda i: f"stage{_stage(i)}_merge")),
        (r"features\.([1357])\.(\d+)\.(.*)", _of(parts, _stage_block)),
        ("norm", "final_norm"),
        ("head", None),
    ]


def mobilenet(names: Collection[str]) -> list[Rule]:
    """torchvision's: which of a block's parts are there is told by the names alone."""
    blocks = sorted({int(m[1]) for name in names if (m := re.match(r"features\.(\d+)\.block", name))})
    last = blocks[-1] + 1
    rules: list[Rule] = []
    for i in blocks:
        own = [name for name in names if name.startswith(f"features.{i}.block.")]
        squeezes = {name.split(".")[3] for name in own if ".fc1." in name}
        convs = sorted({name.split(".")[3] for name in own} - squeezes, key=int)
        for j, part in zip(convs, ("expand", "depth", "project")[-len(convs) :]):
            rules += [
                (rf"features\.{i}\.block\.{j}\.0", f"block{i:02d}/{part}_conv"),
                (rf"features\.{i}\.block\.{j}\.1", f"block{i:02d}/{part}_norm"),
            ]
        for j in squeezes:
            squeeze = lambda k, i=i: f"block{i:02d}/squeeze_excite/conv{k}"  # noqa: E731
            rules.append((rf"features\.{i}\.block\.{j}\.fc(\d)", squeeze))
    return [
        (r"features\.0\.0", "stem_conv"),
        (r"features\.0\.1", "stem_norm"),
        (rf"features\.{last}\.0", "final_conv"),
        (rf"features\.{last}\.1", "final_norm"),
        (r"classifier\.\d", None),
        *rules,
    ]


def densenet(names: Collection[str]) -> list[Rule]:
    """torchvision's."""
    del names
    return [
        (r"features\.(conv|norm)0", lambda part: f"stem_{part}"),
        (
            r"features\.denseblock(\d)\.denselayer(\d+)\.((conv|norm)\d)",
            lambda i, j, part, _: f"stage{i}_layer{int(j):02d}/{part}",
        ),
        (r"features\.transition(\d)\.(conv|norm)", lambda i, part: f"stage{int(i) + 1}_transition/{part}"),
        (r"features\.norm5", "final_norm"),
        ("classifier", None),
    ]


FAMILIES = {
    "resnet": resnet,
    "vit": vit,
    "convnext": convnext,
    "swin": swin,
    "mobilenet": mobilenet,
    "densenet": densenet,
}
