"""The `export` run: one folder with a backbone that others load without this package, to be uploaded as it is.

model.safetensors    under the names of torchvision, timm or Hugging Face, with what strict loading there asks for
arrays.npz           ours, by name
model.onnx           of ResNets; model.stablehlo (jax.export) of the others
preprocessing.json   what the pixels have to be
radnet_jax.json      backbone, contract, origin: what `radnet_jax.load` reads
README.md            the model card
SHA256SUMS           of all of them, written last
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import starts
from radnet_jax.checkpoint import load_arrays
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import ledger
from radnet_jax.models import MODELS, positions
from radnet_jax.parts import check_workdir, lock
from radnet_jax.registry import named
from radnet_jax.trees import nested
from radnet_jax.weights import layouts, model_card, names
from radnet_jax.weights.containers import safetensors
from radnet_jax.weights.folder import ARRAYS_FILE, CARD_FILE, SUMS_FILE, of_backbone, sha256

FORMATS = ("safetensors", "npz", "onnx", "stablehlo")
_PACKAGES = {"onnx": "onnx", "stablehlo": "flatbuffers"}  # jax.export writes with the latter
_INSTALL = "pip install -e '.[export]'"
# Layouts that others' code loads by strict names; the first is the usual one. The authors' own are read only.
EXPORTED = {
    "resnet": ("torchvision", "timm", "hugging_face"),
    "vit": ("timm", "timm_mean", "hugging_face"),
    "convnext": ("torchvision", "timm", "hugging_face"),
    "swin": ("torchvision", "timm", "hugging_face"),
    "mobilenet": ("torchvision",),
    "densenet": ("torchvision", "timm"),
}


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Exports the backbone of config.run_dir's newest checkpoint into the workdir; returns the folder.

    Raises:
      UserError: no checkpoint, an unknown layout or format, ONNX of what is no ResNet or without the onnx package, a
        workdir that holds something else.
    """
    if not config.run_dir:
        raise UserError(
            "config.run_dir is missing", expected="the workdir of a pretraining, a fine-tuning or an import"
        )
    start = starts.find_start(config.run_dir)
    assert start.folder is not None
    section = dict(start.backbone)
    layout = _layout(config.layout, section)
    formats = _formats(config.formats, section)
    folder = check_workdir(workdir, need_bytes=2**24)
    with lock(folder):
        stamp = f"{start.id} {layout} {' '.join(formats)}"
        if (folder / CARD_FILE).is_file() and (folder / SUMS_FILE).is_file():
            if json.loads((folder / CARD_FILE).read_text(encoding="utf-8")).get("export") == stamp:
                logging.info("%s holds this export already: skipped", folder)
                return folder
            raise UserError(f"workdir {folder} holds another export", fix="use a new --workdir, or delete this one")
        loaded, meta = load_arrays(start.folder)
        arrays = of_backbone(loaded, start.kept)
        written = [_write_arrays(name, folder, arrays, section, layout, start) for name in formats]
        _write_json(folder / "preprocessing.json", model_card.preprocessing(start.model_input))
        card = {"format": 1, "id": start.id, "backbone": section, "model_input": start.model_input.to_json()}
        card |= {
            "layout": layout,
            "width": MODELS.build(*named(section)).width,
            "export": stamp,
            "code": ledger.code_version(),
        }
        _write_json(folder / CARD_FILE, {**card, "origin": model_card.origin(meta)})
        text = model_card.write(
            start,
            meta,
            section=section,
            layout=layout,
            formats=formats,
            run_dir=config.run_dir,
            evaluations=config.evaluations,
            licence=config.licence,
            intended_use=config.intended_use,
            limits=tuple(config.limits),
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        files = [*written, "preprocessing.json", CARD_FILE, "README.md"]
        _replace(folder / SUMS_FILE, "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(files)))
    logging.info("%s: %s of %s, names of %s", folder, ", ".join(sorted(files)), start.id, layout)
    return folder


def _layout(layout: str, section: Mapping[str, Any]) -> str:
    known = EXPORTED[names.family_of(section["name"])]
    if "timm_mean" in known:  # the others' networks take the class token, and load the weights all the same
        known = ("timm_mean",) if section.get("pool") == "mean" else tuple(k for k in known if k != "timm_mean")
    if not layout:
        return known[0]
    if layout not in known:
        raise UserError(
            f"config.layout: no names of {layout!r} for {section['name']}{nearest(layout, known)}",
            expected=f"one of {', '.join(known)}",
        )
    return layout


def _formats(wanted: Iterable[str], section: Mapping[str, Any]) -> tuple[str, ...]:
    wanted, resnet = tuple(wanted), names.family_of(section["name"]) == "resnet"
    for name in wanted:
        if name not in FORMATS:
            raise UserError(f"config.formats: unknown {name!r}{nearest(name, FORMATS)}", expected=", ".join(FORMATS))
    if "onnx" in wanted and not resnet:
        raise UserError(f"config.formats: onnx is written of ResNets, not of {section['name']}", fix="take stablehlo")
    for name, package in _PACKAGES.items():
        if name in wanted and importlib.util.find_spec(package) is None:
            raise UserError(f"config.formats: {name} needs the package {package}", fix=_INSTALL)
    if wanted:
        return wanted
    graph = "onnx" if resnet else "stablehlo"
    if importlib.util.find_spec(_PACKAGES[graph]) is None:
        logging.warning("no model.%s: the package %s is missing (%s)", graph, _PACKAGES[graph], _INSTALL)
        return "safetensors", "npz"
    return "safetensors", "npz", graph


def _write_arrays(
    kind: str,
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    section: Mapping[str, Any],
    layout: str,
    start: starts.Start,
) -> str:
    """Writes one file; returns its name."""
    if kind == "safetensors":
        metadata = {"format": "pt", "layout": layout, "backbone": json.dumps(section), "id": start.id}
        safetensors.write(folder / "model.safetensors", theirs(arrays, section, layout), metadata)
        return "model.safetensors"
    if kind == "npz":
        temporary = folder / f".{ARRAYS_FILE}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]
        os.replace(temporary, folder / ARRAYS_FILE)
        return ARRAYS_FILE
    if kind == "onnx":
        from radnet_jax.weights import onnx_resnet

        model = onnx_resnet.build(arrays, section, channels=start.model_input.channels, size=start.model_input.size)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return "model.onnx"
    (folder / "model.stablehlo").write_bytes(_stablehlo(arrays, section, start))
    return "model.stablehlo"


def theirs(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], layout: str) -> dict[str, np.ndarray]:
    """Returns a backbone's arrays under the names of a layout, with the buffers that strict loading there asks for.

    Args:
      arrays: ours, "params/..." and "batch_stats/...".
      section: the backbone section.
      layout: one of EXPORTED.
    """
    rules = names.find(section["name"], layout)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    found: dict[str, np.ndarray] = {}
    for entry in layouts.entries(rules, shapes):
        found |= entry.to_theirs(np.asarray(arrays[entry.ours], np.float32))
        if entry.ours.endswith("/mean"):
            found[entry.theirs[0].replace("running_mean", "num_batches_tracked")] = np.array(0, np.int64)
        if layout == "torchvision" and entry.ours.endswith("relative_position/bias"):
            module = entry.theirs[0].removesuffix(".relative_position_bias_table")
            found[f"{module}.relative_position_index"] = _relative_index(shapes[entry.ours][0])
    if section.get("position") == "sincos":
        found[rules.whole["pos_embed"]] = _fixed_positions(section, arrays["params/patch_embed/kernel"])
    return found


def _relative_index(offsets: int) -> np.ndarray:
    """torchvision's buffer: the row of the table for each pair of pixels of a window."""
    span = round(offsets**0.5)
    window = (span + 1) // 2
    row, column = np.divmod(np.arange(window**2), window)
    down, across = (x[:, None] - x[None, :] + window - 1 for x in (row, column))
    return (down * span + across).reshape(-1).astype(np.int64)


def _fixed_positions(section: Mapping[str, Any], kernel: np.ndarray) -> np.ndarray:
    side = section.get("image_size", 224) // kernel.shape[0]
    table = positions.sincos(side, side, kernel.shape[-1])
    return np.pad(table, ((1, 0), (0, 0)))[None]


def _stablehlo(arrays: Mapping[str, np.ndarray], section: Mapping[str, Any], start: starts.Start) -> bytes:
    """The network by jax.export: (arrays by name, standardised images of any number) -> features."""
    import jax.export

    module = MODELS.build(*named({**section, "dtype": "float32"}))

    def run(flat: dict[str, Any], image: Any) -> Any:
        return module.apply(nested(flat), image, train=False)["pooled"]

    (batch,) = jax.export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, *start.model_input.size, start.model_input.channels), jnp.float32)
    flat = {name: jax.ShapeDtypeStruct(array.shape, jnp.float32) for name, array in arrays.items()}
    exported = jax.export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(flat, image)
    return bytes(exported.serialize())


def _write_json(path: Path, value: Any) -> None:
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
