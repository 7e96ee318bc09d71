"""The layouts: what torchvision, timm, Hugging Face and the authors' own code call the weights of each family.

Hugging Face's are those of transformers 5, of the models without a head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import re
from typing import Any

from radnet_jax.errors import UserError, nearest
from radnet_jax.weights.layouts import TORCH_LEAVES, Layout, Rule, family_of

_BLOCK = r"stage(\d)_block(\d+)/(.+)"


def _fixed(*rules: Rule) -> Callable[[Collection[str]], Sequence[Rule]]:
    """Rules that do not depend on which modules there are."""
    return lambda modules: rules


def _below(base: str, found: str | Sequence[str]) -> str | tuple[str, ...]:
    """Their module, or those that hold a part of one of ours each, below `base`."""
    return f"{base}{found}" if isinstance(found, str) else tuple(f"{base}{f}" for f in found)


def _blocks(block: str, parts: Mapping[str, Any]) -> Rule:
    """The rule of a stage's blocks; `block` is formatted with (stage, stage - 1, block - 1)."""

    def theirs(stage: int, number: int, part: str) -> Any:
        return _below(block.format(stage, stage - 1, number - 1), parts[part])

    return _BLOCK, theirs


def _resnet(stem: tuple[str, str], block: str, parts: Mapping[str, str]) -> Callable[..., Sequence[Rule]]:
    return _fixed(("stem_conv", stem[0]), ("stem_norm", stem[1]), _blocks(block, parts))


_RESNET_PARTS = {
    **{f"conv{i}": f".conv{i}" for i in (1, 2, 3)},
    **{f"norm{i}": f".bn{i}" for i in (1, 2, 3)},
    "down_conv": ".downsample.0",
    "down_norm": ".downsample.1",
}


def _children(stage: int, number: int, part: str) -> str:
    """Of torchvision's network as a sequence: the stem's four children have the numbers 0 to 3."""
    return f"{stage + 3}.{number - 1}{_RESNET_PARTS[part]}"


_HF_RESNET_PARTS = {
    **{f"conv{i}": f".layer.{i - 1}.convolution" for i in (1, 2, 3)},
    **{f"norm{i}": f".layer.{i - 1}.normalization" for i in (1, 2, 3)},
    "down_conv": ".shortcut.convolution",
    "down_norm": ".shortcut.normalization",
}


def _tensorflow_resnet(modules: Collection[str]) -> Sequence[Rule]:
    """SimCLR's variables: layers are numbered as they were made, a block's shortcut before its own layers."""

    def order(module: str) -> tuple[int, int, int]:
        match = re.fullmatch(r"stage(\d)_block(\d+)/(?:down_)?\D+(\d?)", module)
        return (0, 0, 0) if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))

    rules: list[Rule] = []
    for kind, theirs in (("conv", "conv2d"), ("norm", "batch_normalization")):
        own = sorted((m for m in modules if re.search(rf"{kind}\d?$", m)), key=order)
        rules += [(re.escape(m), f"base_model/{theirs}{f'_{i}' if i else ''}") for i, m in enumerate(own)]
    return rules


_HAIKU_PARTS = {
    **{f"conv{i}": f"/~/conv_{i - 1}" for i in (1, 2, 3)},
    **{f"norm{i}": f"/~/batchnorm_{i - 1}" for i in (1, 2, 3)},
    "down_conv": "/~/shortcut_conv",
    "down_norm": "/~/shortcut_batchnorm",
}

_VIT_PARTS = {
    "norm1": ".norm1",
    "norm2": ".norm2",
    "qkv": ".attn.qkv",
    "out": ".attn.proj",
    "mlp/linear1": ".mlp.fc1",
    "mlp/linear2": ".mlp.fc2",
}
_QKV = tuple(f".attention.{x}_proj" for x in "qkv")
_HF_VIT_PARTS = {
    "norm1": ".layernorm_before",
    "norm2": ".layernorm_after",
    "qkv": _QKV,
    "out": ".attention.o_proj",
    "mlp/linear1": ".mlp.fc1",
    "mlp/linear2": ".mlp.fc2",
}
_JAX_VIT_PARTS = {
    "norm1": "/LayerNorm_0",
    "norm2": "/LayerNorm_2",
    "qkv": [f"/MultiHeadDotProductAttention_1/{x}" for x in ("query", "key", "value")],
    "out": "/MultiHeadDotProductAttention_1/out",
    "mlp/linear1": "/MlpBlock_3/Dense_0",
    "mlp/linear2": "/MlpBlock_3/Dense_1",
}


def _vit(patches: str, block: str, parts: Mapping[str, Any], norm: str) -> Callable[..., Sequence[Rule]]:
    def theirs(number: int, part: str) -> Any:
        return _below(block.format(number - 1), parts[part])

    return _fixed(("patch_embed", patches), (r"block(\d+)/(.+)", theirs), ("final_norm", norm))


def _convnext(
    stem: str, block: str, parts: Mapping[str, str], reduce: str, scale: int, norm: str
) -> Callable[..., Sequence[Rule]]:
    """`stem` is formatted with 0 and 1, `reduce` with its stage times `scale` and 0 or 1."""
    number = {"norm": 0, "conv": 1}
    return _fixed(
        ("stem_conv", stem.format(0)),
        ("stem_norm", stem.format(1)),
        _blocks_of_stages(block, scale, parts),
        (r"stage(\d)_reduce/(norm|conv)", lambda i, part: reduce.format(scale * (i - 1), number[part])),
        ("final_norm", norm),
    )


def _blocks_of_stages(block: str, scale: int, parts: Mapping[str, str]) -> Rule:
    """As `_blocks`; torchvision counts stem, blocks, reduction, blocks, ...: its blocks are 1, 3, 5 and 7."""

    def theirs(stage: int, number: int, part: str = "") -> str:
        return block.format(scale * (stage - 1) + scale - 1, number - 1) + parts[part]

    return r"stage(\d)_block(\d+)/?(.*)", theirs


def _convnext_parts(conv: str, norm: str, first: str, second: str) -> dict[str, str]:
    # The block itself stands for its layer scale, which is a parameter of it.
    return {"conv": conv, "norm": norm, "mlp/linear1": first, "mlp/linear2": second, "": ""}


_SWIN_PARTS = {
    "norm1": ".norm1",
    "norm2": ".norm2",
    "attention": ".attn",
    "attention/qkv": ".attn.qkv",
    "attention/out": ".attn.proj",
}
_HF_SWIN_PARTS = {
    "norm1": ".layernorm_before",
    "norm2": ".layernorm_after",
    "attention": ".attention.relative_position_bias",
    "attention/qkv": _QKV,
    "attention/out": ".attention.o_proj",
    "mlp/linear1": ".mlp.fc1",
    "mlp/linear2": ".mlp.fc2",
}
_MERGE_PARTS = {"norm": "norm", "linear": "reduction"}


def _swin(
    stem: tuple[str, str], block: str, scale: int, mlp: tuple[str, str], merge: str, back: int, norm: str
) -> Callable[..., Sequence[Rule]]:
    """`merge` is formatted with its stage, less `back`, times `scale`."""
    parts = {**_SWIN_PARTS, "mlp/linear1": mlp[0], "mlp/linear2": mlp[1]}
    return _fixed(
        ("stem_conv", stem[0]),
        ("stem_norm", stem[1]),
        _blocks_of_stages(block, scale, parts),
        (r"stage(\d)_merge/(norm|linear)", lambda i, part: f"{merge.format(scale * (i - back))}.{_MERGE_PARTS[part]}"),
        ("final_norm", norm),
    )


def _mobilenet(modules: Collection[str]) -> Sequence[Rule]:
    """torchvision numbers the parts that a block has."""
    numbers = sorted({int(m[1]) for name in modules if (m := re.match(r"block(\d+)/", name))})
    rules: list[Rule] = [("stem_conv", "features.0.0"), ("stem_norm", "features.0.1")]
    for i in numbers:
        own = f"block{i:02d}"
        parts = [p for p in ("expand", "depth", "squeeze_excite", "project") if _has(modules, f"{own}/{p}")]
        for j, part in enumerate(parts):
            theirs = f"features.{i}.block.{j}"
            if part == "squeeze_excite":
                rules += [(f"{own}/squeeze_excite/conv{k}", f"{theirs}.fc{k}") for k in (1, 2)]
            else:
                rules += [(f"{own}/{part}_conv", f"{theirs}.0"), (f"{own}/{part}_norm", f"{theirs}.1")]
    last = f"features.{numbers[-1] + 1}"
    return [*rules, ("final_conv", f"{last}.0"), ("final_norm", f"{last}.1")]


def _has(modules: Collection[str], start: str) -> bool:
    return any(name.startswith(start) for name in modules)


def _densenet(part: str) -> Callable[..., Sequence[Rule]]:
    """`part` is formatted with "norm" or "conv" and its number in a layer."""
    return _fixed(
        (r"stem_(conv|norm)", lambda kind: f"features.{kind}0"),
        (
            r"stage(\d)_layer(\d+)/(conv|norm)(\d)",
            lambda i, j, kind, k: f"features.denseblock{i}.denselayer{j}.{part.format(kind, k)}",
        ),
        (r"stage(\d)_transition/(.+)", lambda i, kind: f"features.transition{i - 1}.{kind}"),
        ("final_norm", "features.norm5"),
    )


_TORCHVISION_RESNET = Layout(_resnet(("conv1", "bn1"), "layer{0}.{2}", _RESNET_PARTS))
_TORCHVISION_DENSENET = Layout(_densenet("{}{}"))
_TIMM_TOKENS = {"cls_token": "cls_token", "pos_embed": "pos_embed"}
_TIMM_VIT = _vit("patch_embed.proj", "blocks.{}", _VIT_PARTS, "norm")
_GAMMA = {**TORCH_LEAVES, "layer_scale/scale": ".gamma"}

LAYOUTS: dict[str, dict[str, Layout]] = {
    "resnet": {
        "torchvision": _TORCHVISION_RESNET,
        "timm": _TORCHVISION_RESNET,
        "children": Layout(_fixed(("stem_conv", "0"), ("stem_norm", "1"), (_BLOCK, _children))),
        "hugging_face": Layout(
            _resnet(
                ("embedder.embedder.convolution", "embedder.embedder.normalization"),
                "encoder.stages.{1}.layers.{2}",
                _HF_RESNET_PARTS,
            ),
        ),
        "tensorflow": Layout(
            _tensorflow_resnet,
            leaves=dict(kernel="/kernel", scale="/gamma", bias="/beta", mean="/moving_mean", var="/moving_variance"),
            native=True,
        ),
        "haiku": Layout(
            _resnet(("initial_conv", "initial_batchnorm"), "block_group_{1}/~/block_{2}", _HAIKU_PARTS),
            leaves=dict(
                kernel="/w", scale="/scale", bias="/offset", mean="/~/mean_ema/average", var="/~/var_ema/average"
            ),
            native=True,
        ),
    },
    "vit": {
        "timm": Layout(_TIMM_VIT, whole=_TIMM_TOKENS),  # those of DeiT, DINO, MAE and MoCo v3 too
        "timm_mean": Layout(
            _vit("patch_embed.proj", "blocks.{}", _VIT_PARTS, "fc_norm"), whole=_TIMM_TOKENS
        ),  # timm's with the mean of the patches
        "hugging_face": Layout(
            _vit("embeddings.patch_embeddings.projection", "layers.{}", _HF_VIT_PARTS, "layernorm"),
            whole={"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"},
        ),
        "jax": Layout(
            _vit("embedding", "Transformer/encoderblock_{}", _JAX_VIT_PARTS, "Transformer/encoder_norm"),
            leaves=dict(kernel="/kernel", scale="/scale", bias="/bias"),
            whole={"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"},
            native=True,
        ),
    },
    "convnext": {
        "torchvision": Layout(
            _convnext(
                "features.0.{}",
                "features.{}.{}",
                _convnext_parts(".block.0", ".block.2", ".block.3", ".block.5"),
                "features.{}.{}",
                2,
                "classifier.0",
            )
        ),
        "timm": Layout(
            _convnext(
                "stem.{}",
                "stages.{}.blocks.{}",
                _convnext_parts(".conv_dw", ".norm", ".mlp.fc1", ".mlp.fc2"),
                "stages.{}.downsample.{}",
                1,
                "head.norm",
            ),
            leaves=_GAMMA,
        ),
        "original": Layout(
            _convnext(
                "downsample_layers.0.{}",
                "stages.{}.{}",
                _convnext_parts(".dwconv", ".norm", ".pwconv1", ".pwconv2"),
                "downsample_layers.{}.{}",
                1,
                "norm",
            ),
            leaves=_GAMMA,
        ),
        "hugging_face": Layout(
            _fixed(
                ("stem_conv", "embeddings.patch_embeddings"),
                ("stem_norm", "embeddings.layernorm"),
                _blocks_of_stages(
                    "encoder.stages.{}.layers.{}",
                    1,
                    _convnext_parts(".dwconv", ".layernorm", ".pwconv1", ".pwconv2"),
                ),
                (
                    r"stage(\d)_reduce/(norm|conv)",
                    lambda i, part: f"encoder.stages.{i - 1}.downsampling_layer.{0 if part == 'norm' else 1}",
                ),
                ("final_norm", "layernorm"),
            ),
            leaves={**TORCH_LEAVES, "layer_scale/scale": ".layer_scale_parameter"},
        ),
    },
    "swin": {
        "torchvision": Layout(
            _swin(
                ("features.0.0", "features.0.2"),
                "features.{}.{}",
                2,
                (".mlp.0", ".mlp.3"),
                "features.{}",
                1,
                "norm",
            )
        ),
        "timm": Layout(
            _swin(
                ("patch_embed.proj", "patch_embed.norm"),
                "layers.{}.blocks.{}",
                1,
                (".mlp.fc1", ".mlp.fc2"),
                "layers.{}.downsample",
                1,
                "norm",
            )
        ),
        "original": Layout(
            _swin(
                ("patch_embed.proj", "patch_embed.norm"),
                "layers.{}.blocks.{}",
                1,
                (".mlp.fc1", ".mlp.fc2"),
                "layers.{}.downsample",
                2,
                "norm",
            )
        ),
        "hugging_face": Layout(
            _fixed(
                ("stem_conv", "embeddings.patch_embeddings.projection"),
                ("stem_norm", "embeddings.norm"),
                _blocks("encoder.layers.{1}.blocks.{2}", _HF_SWIN_PARTS),
                (
                    r"stage(\d)_merge/(norm|linear)",
                    lambda i, part: f"encoder.layers.{i - 2}.downsample.{_MERGE_PARTS[part]}",
                ),
                ("final_norm", "layernorm"),
            ),
        ),
    },
    "mobilenet": {"torchvision": Layout(_mobilenet)},
    "densenet": {
        "torchvision": _TORCHVISION_DENSENET,
        "timm": _TORCHVISION_DENSENET,
        "torchvision_file": Layout(_densenet("{}.{}")),  # the public file's, which torchvision renames
    },
}


def find(backbone: str, name: str) -> Layout:
    """Returns the layout of a backbone's family by its name; a UserError gives the ones that there are."""
    known = LAYOUTS[family_of(backbone)]
    if name not in known:
        raise UserError(
            f"no layout {name!r} for {backbone}{nearest(name, known)}", expected=f"one of {', '.join(known)}"
        )
    return known[name]
