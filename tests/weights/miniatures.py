"""A small file of each source, of its own container, names and forms, with the heads that lie beside the backbone."""

from collections import OrderedDict
import re

import ml_dtypes
import numpy as np

from radnet_jax.weights import cards, layouts, names
from tests.weights import files

# Backbones of the same kind as the card's, but small.
SMALL = {
    "resnet": dict(base_width=4),
    "vit": dict(width=16, depth=4, heads=2, patch=8, image_size=32),
    "convnext": dict(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32)),
    "swin": dict(base_width=8, depths=(2, 2, 2, 2), head_width=4, window=4),
    "mobilenet": dict(multiplier=0.25),
    "densenet": dict(depths=(1, 2, 2, 1), growth=4),
}


def section(card, backbone=""):
    """The smallest of the card's backbones, shrunk."""
    backbone = backbone or next(iter(card.backbones))
    return card.section(backbone, SMALL[names.family_of(backbone)])


def ours(wanted, seed=0):
    """Random weights of a backbone section, with statistics that can be."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in layouts.shapes_of(wanted).items():
        array = rng.normal(0, 0.3, shape)
        arrays[name] = (np.abs(array) + 0.5 if name.endswith(("/var", "/scale")) else array).astype(np.float32)
    return arrays


def theirs(card, wanted, arrays, prefix=None):
    """The flat names and arrays of a file that holds these weights."""
    prefix = card.prefixes[0] if prefix is None else prefix
    state = {}
    for entry in layouts.entries(names.find(wanted["name"], card.layout), layouts.shapes_of(wanted)):
        for name, array in _native(entry, arrays[entry.ours]).items():
            state[f"{prefix}{name}"] = array
        if card.layout in ("torchvision", "timm", "original", "children") and entry.ours.endswith("/mean"):
            counter = entry.theirs[0].replace("running_mean", "num_batches_tracked")
            state[f"{prefix}{counter}"] = np.array(9, np.int64)
    return state


def _native(entry, array):
    """Their arrays; of native layouts in the shapes that Haiku and the JAX ViTs have."""
    if entry.form != "flat":
        return entry.to_theirs(array)
    parts = np.split(array, len(entry.theirs), axis=-1)
    out = {}
    for name, part in zip(entry.theirs, parts):
        heads = 2
        if "MultiHead" in name and name.endswith("kernel"):
            out_first = name.endswith("out/kernel")
            shape = (heads, -1, part.shape[1]) if out_first else (part.shape[0], heads, -1)
            part = part.reshape(shape)
        elif "MultiHead" in name and not name.endswith("out/bias"):
            part = part.reshape(heads, -1)
        elif "batchnorm" in name:  # Haiku's
            part = part.reshape(1, 1, 1, -1)
        out[name] = part
    return out


EXTRAS = {  # names beside the backbone, as the public files have them
    "insdis": ["module.head.0.weight", "module.head.0.bias"],
    "pirl": ["module.head.0.weight", "module.head_jig.fc1.weight", "module.head_jig.fc2.bias"],
    "infomin": ["module.head.0.weight", "module.head.2.bias", "module.head_jig.fc1.weight"],
    "moco_v1": ["module.encoder_q.fc.weight", "module.encoder_k.conv1.weight", "module.queue", "module.queue_ptr"],
    "moco_v2": ["module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.bias"],
    "pcl_v1": ["module.encoder_q.fc.weight"],
    "pcl_v2": ["module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.weight"],
    "swav": ["module.projection_head.0.weight", "module.projection_head.1.running_mean", "module.prototypes.weight"],
    "deepcluster_v2": ["module.projection_head.3.bias", "module.prototypes.prototypes0.weight"],
    "sela_v2": ["module.projection_head.3.bias", "module.prototypes.prototypes0.weight"],
    "simclr_v1": ["global_step", "base_model/conv2d/kernel/Momentum", "head_supervised/linear_layer/dense/bias"],
    "simclr_v2": ["global_step", "head_contrastive/nl_0/dense/kernel", "ema_model/base_model/conv2d/kernel"],
    "byol": ["projector/linear/w", "predictor/linear_1/w", "classifier/b"],
    "chestxray14": ["fc.0.weight"],
    "mae": ["decoder_embed.weight", "mask_token"],
    "vit_in22k": ["head/kernel", "pre_logits/bias"],
    "convnext": ["head.weight"],
    "swin": ["head.bias", "layers.0.blocks.1.attn_mask", "layers.0.blocks.0.attn.relative_position_index"],
    "moco_v3_vit": [
        "module.base_encoder.head.0.weight",
        "module.momentum_encoder.cls_token",
        "module.predictor.0.bias",
    ],
    "supervised_resnet": ["fc.weight", "fc.bias"],
    "supervised_convnext": ["classifier.2.weight"],
    "supervised_densenet121": ["classifier.weight"],
}


def write(source, folder, *, dtype=np.float32, backbone=""):
    """Writes the miniature of a source; returns (path for config.file, backbone section, our arrays)."""
    card = cards.load(source)
    wanted = section(card, backbone)
    arrays = ours(wanted)
    state = theirs(card, wanted, arrays)
    state = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in state.items()}
    state |= {name: np.ones(3, np.float32) for name in EXTRAS.get(source, ())}
    path = folder / f"{source}.pth"
    if card.container == "TensorFlow":
        return files.write("tf", folder / "model.ckpt-7", state), wanted, arrays
    if card.container == ".npz":
        return files.write("npz", folder / f"{source}.npz", state), wanted, arrays
    if card.container == "safetensors":
        return files.write("safetensors", folder / "model.safetensors", state), wanted, arrays
    if card.container == "Haiku pickle":
        params, stats = {}, {}
        for name, array in state.items():
            module, _, leaf = name.rpartition("/")
            (stats if leaf == "average" else params).setdefault(module, {})[leaf] = array
            if leaf == "average":
                stats[module] |= {"hidden": array, "counter": np.array(3, np.int32)}
        files.write_byol(path, params, stats)
        return path, wanted, arrays
    tree = OrderedDict(state)
    for key in reversed(card.select[0]):
        tree = {key: tree, "epoch": 200, "optimizer": {"lr": 0.03}}
    # The files of 2020 have the older form.
    writer = files.write_torch_legacy if re.match("moco_v[12]|pcl|swav|insdis", source) else files.write_torch
    writer(path, tree)
    return path, wanted, arrays


HALVES = (np.float16, ml_dtypes.bfloat16)
