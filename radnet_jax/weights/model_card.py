"""The model card of an export, and its preprocessing contract in words that need no code of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.ledger import Run
from radnet_jax.models import MODELS
from radnet_jax.models.resnet import BLOCKS
from radnet_jax.preprocessing import ModelInput
from radnet_jax.starts import Start
from radnet_jax.weights import names

_TORCHVISION = {"swin_tiny": "swin_t", "swin_small": "swin_s", "swin_base": "swin_b"}
_FIRSTS = {"resnet": "conv1", "densenet": "features.conv0"}  # their first layers; of the others features[0][0]
_HEADS = {
    "resnet": "fc",
    "swin": "head",
    "convnext": "classifier[2]",
    "mobilenet": "classifier",
    "densenet": "classifier",
}
# Arguments of a backbone with which the usual constructors still make it.
_IN_SNIPPETS = {
    "name",
    "padding",
    "zero_init_last",
    "norm_momentum",
    "image_size",
    "patch",
    "pool",
    "position",
    "dtype",
}
_HUGGING_FACE = {"resnet": "ResNet", "vit": "ViT", "convnext": "ConvNext", "swin": "Swin"}


def preprocessing(model_input: ModelInput) -> dict[str, Any]:
    """Returns what preprocessing.json holds: the contract, and the steps from stored values to the network's input."""
    height, width = model_input.size
    steps = [f"bring the image to {height} x {width} px (pad it to a square, resize by area averages)"]
    if model_input.windows:
        steps += [
            f"channel {i}: (hu - {c - w / 2:g}) / {w:g}, clipped to [0, 1]"
            for i, (c, w) in enumerate(model_input.windows)
        ]
    elif isinstance(model_input.value_range, str):
        steps.append("(value - lowest of the image) / (highest - lowest), 0 where both are equal")
    else:
        assert model_input.value_range is not None
        low, high = model_input.value_range
        steps.append(f"(value - {low:g}) / {high - low:g}, clipped to [0, 1]")
    if model_input.channels > max(len(model_input.windows), 1):
        steps.append(f"a single channel is repeated to {model_input.channels}")
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (model_input.mean, model_input.std))
    steps += [
        f"subtract ({mean}) and divide by ({std}), by channel",
        "channels first for PyTorch and ONNX, last for JAX",
    ]
    return {"format": 1, "model_input": model_input.to_json(), "steps": steps}


def origin(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns where a checkpoint's weights come from: its source, or its objective and dataset."""
    if "imported" in meta:
        source = meta["imported"]["source"]
        return {"source": source["name"], "objective": source["objective"], "data": source["data"]}
    config = meta["config"]
    return {
        "objective": config.get("objective", {}).get("name", "not recorded"),
        "data": meta.get("dataset", {}).get("name", "not recorded"),
        "step": meta["step"],
        "init": meta.get("checkpoint") or "random",
    }


def write(
    start: Start,
    meta: Mapping[str, Any],
    *,
    section: Mapping[str, Any],
    layout: str,
    formats: Sequence[str],
    run_dir: str,
    evaluations: str,
    licence: str,
    intended_use: str,
    limits: Sequence[str],
) -> str:
    """Returns README.md: what was trained on what and for how long, how good it is, how sure that is, and its limits.

    Args:
      start: the checkpoint.
      meta: of the checkpoint.
      section: the backbone section.
      layout: of model.safetensors.
      formats: that were written.
      run_dir: the workdir of the checkpoint; its run.json has the hours.
      evaluations: a folder of finished runs, "" for none; those from this checkpoint are shown.
      licence: as given.
      intended_use: as given.
      limits: sentences.
    """
    own = ledger.read_run(run_dir) if ledger.is_finished(run_dir) else None
    rows = _evaluations(start, own, evaluations)
    lines = [
        "---",
        f"license: {licence if licence != 'not stated' else 'other'}",
        "tags: [medical-imaging, feature-extraction, radnet_jax]",
        "---",
        "",
        f"# {section['name']} ({start.id})",
        "",
        "| | |",
        "|---|---|",
        f"| Network | {_spelled(section)}, {_which(meta)} |",
        *(f"| {key} | {value} |" for key, value in _facts(meta, own)),
        f"| Sees | {_seen(start.model_input)} |",
        f"| Licence | {licence} |",
        f"| Intended use | {intended_use} |",
        "",
        "## Use it",
        "",
        "```python",
        *snippet(section, layout, start.model_input.channels),
        "```",
        "",
        "`preprocessing.json` says what the image has to be. With radnet_jax: "
        '`features = radnet_jax.load("THIS_FOLDER")(images)`, int16 HU or uint8.',
        "",
        "## Results",
        "",
        *(_results(rows) if rows else ["None were given to the export."]),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*limits, *_limits(section, layout, start, rows, own))),
    ]
    if "onnx" in formats:
        lines += ["", "`model.onnx`: input `image` [n c h w], output `features`; opset 17."]
    if "stablehlo" in formats:
        lines += [
            "",
            '`model.stablehlo`: `jax.export.deserialize(bytes).call(dict(np.load("arrays.npz")), image)`, n h w c.',
        ]
    return "\n".join(lines) + "\n"


def _which(meta: Mapping[str, Any]) -> str:
    return f"weights of step {meta['step']}" if "imported" not in meta else "imported weights"


def _spelled(section: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{k}={v}" for k, v in section.items() if k != "name")
    return f"`{section['name']}`" + (f" ({arguments})" if arguments else "")


def _facts(meta: Mapping[str, Any], own: Run | None) -> list[tuple[str, str]]:
    if "imported" in meta:
        source, file = meta["imported"]["source"], meta["imported"]["file"]
        facts = [("Source", f"[{source['title']}]({source['home']}); licence: {source['licence']}")]
        facts += [("Objective", source["objective"]), ("Data", source["data"])]
        facts += [("Epochs", str(source["epochs"] or "not published")), ("Hours", "not published")]
        return [*facts, ("File", f"`{file['name']}`, sha256 `{file['sha256']}`")]
    known = origin(meta)
    hours = (
        f"{own.timings['total_s'] / 3600:.2f} on {own.topology['devices']} x {own.topology['device_kind']}"
        if own
        else ""
    )
    return [
        ("Objective", str(known["objective"])),
        ("Data", str(known["data"])),
        ("Started from", str(known["init"])),
        ("Hours", hours or "not recorded: the run is not finished"),
        ("Code", f"radnet_jax {meta['code']['version']}, source {meta['code']['source']}"),
    ]


def _seen(model_input: ModelInput) -> str:
    scaled = ", ".join(f"window {c:g}/{w:g} HU" for c, w in model_input.windows)
    if isinstance(model_input.value_range, str):
        scaled = "each image from its lowest to its highest value"
    elif model_input.value_range is not None:
        scaled = f"values {model_input.value_range[0]:g} to {model_input.value_range[1]:g}"
    height, width = model_input.size
    return f"{model_input.modality}, {height} x {width} px, {model_input.channels} channel(s), {scaled}"


def snippet(section: Mapping[str, Any], layout: str, channels: int) -> list[str]:
    """Returns the lines of Python with which somebody without this package loads model.safetensors, strictly."""
    name, family = section["name"], names.family_of(section["name"])
    load = ['net.load_state_dict(load_file("model.safetensors"), strict=True)', "net.eval()"]
    if layout == "hugging_face":
        return [*_hugging_face({**MODELS.defaults(name), **section}, family, channels), *load]
    if set(section) - _IN_SNIPPETS:
        return ["from safetensors.torch import load_file", "net = ...  # a network of these sizes", *load]
    if layout == "torchvision":
        made = f"{_TORCHVISION.get(name, name)}()"
        if name == "resnet10":  # which has no constructor
            made = "ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"
        lines = [
            "import torch, torchvision",
            "from safetensors.torch import load_file",
            f"net = torchvision.models.{made}",
            f"net.{_HEADS[family]} = torch.nn.Identity()",
        ]
        if channels == 1:
            first = f"net.{_FIRSTS.get(family, 'features[0][0]')}"
            lines += [
                f"c = {first}",
                f"{first} = torch.nn.Conv2d(1, c.out_channels, c.kernel_size, c.stride, c.padding, "
                "bias=c.bias is not None)",
            ]
        return [*lines, *load]
    patch, side = section.get("patch", 16), section.get("image_size", 224)
    kwargs = f"num_classes=0, in_chans={channels}"
    if family == "vit":
        pool = ', global_pool="avg"' if layout == "timm_mean" else ""
        made = f'"{name}_patch16_224", {kwargs}, patch_size={patch}, img_size={side}{pool}'
    else:
        made = f'"{name}{"_patch4_window7_224" if family == "swin" else ""}", {kwargs}'
    call = f"create_model({made})"
    if name == "resnet10":
        call = f"models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), {kwargs})"
    return ["import timm", "from safetensors.torch import load_file", f"net = timm.{call}", *load]


def _hugging_face(section: Mapping[str, Any], family: str, channels: int) -> list[str]:
    """The lines that make transformers' network of a backbone's sizes; `section` has all arguments."""
    made: dict[str, Any] = {"num_channels": channels}
    if family == "resnet":
        depth, width = int(section["name"].removeprefix("resnet")), section["base_width"]
        kind, expansion = ("bottleneck", 4) if depth >= 50 else ("basic", 1)
        made |= dict(embedding_size=width, hidden_sizes=[width * 2**i * expansion for i in range(4)])
        made |= dict(depths=list(BLOCKS[depth]), layer_type=kind)
    elif family == "vit":
        made |= dict(hidden_size=section["width"], num_hidden_layers=section["depth"])
        made |= dict(num_attention_heads=section["heads"], intermediate_size=4 * section["width"])
        made |= dict(image_size=section["image_size"], patch_size=section["patch"], layer_norm_eps=1e-6)
    elif family == "convnext":
        made |= dict(depths=list(section["depths"]), hidden_sizes=list(section["widths"]), layer_norm_eps=1e-6)
    else:
        width, window = section["base_width"], section["window"]
        heads = [width * 2**i // section["head_width"] for i in range(4)]
        made |= dict(embed_dim=width, depths=list(section["depths"]), num_heads=heads, window_size=window)
        made |= dict(layer_norm_eps=1e-5)
    kind = _HUGGING_FACE[family]
    pooling = ", add_pooling_layer=False" if family == "vit" else ""
    features = "last_hidden_state[:, 0]" if family == "vit" else "pooler_output.flatten(1)"
    return [
        "import transformers",
        "from safetensors.torch import load_file",
        f"config = transformers.{kind}Config({', '.join(f'{k}={v!r}' for k, v in made.items())})",
        f"net = transformers.{kind}Model(config{pooling})  # its features: net(image).{features}",
    ]


def _evaluations(start: Start, own: Run | None, evaluations: str) -> list[Run]:
    """Judged runs of this checkpoint: its own, where it is a fine-tuning, and those of a folder that start from it."""
    rows = [own] if own is not None and own.judged else []
    if evaluations:
        if not Path(evaluations).is_dir():
            raise UserError(f"config.evaluations: no folder {evaluations}", expected="a folder of finished runs")
        found = [ledger.read_run(path.parent) for path in sorted(Path(evaluations).rglob(ledger.RUN_FILE))]
        mine = [run for run in found if run.judged and run.checkpoint == start.id]
        if not mine:
            raise UserError(
                f"config.evaluations: none of the {len(found)} run(s) in {evaluations} starts from {start.id}",
                fix="give the folder of its fine-tunings and probes",
            )
        rows += mine
    return rows


def _results(rows: Sequence[Run]) -> list[str]:
    lines = [
        "| Task | Protocol | Metric | Test | 95 % interval over patients | Patients |",
        "|---|---|---|---|---|---|",
    ]
    from radnet_jax.evaluation.statistics.bootstrap import bootstrap_interval  # numba: an export need not wait for it

    for run in rows:
        p = run.predictions.of("test")
        if not len(p):
            continue
        interval = bootstrap_interval(
            run.primary_metric, p.scores, p.labels, label_mask=p.label_mask, groups=p.patient, n_resamples=2000
        )
        span = f"{interval.low:.3f} to {interval.high:.3f}" if not interval.reason else f"none ({interval.reason})"
        task = run.task or run.dataset["name"]
        lines.append(
            f"| {task} | {run.protocol or run.kind} | {run.primary_metric} | {interval.value:.3f} | {span} "
            f"| {interval.n_groups} |"
        )
    return lines


def _limits(section: Mapping[str, Any], layout: str, start: Start, rows: Sequence[Run], own: Run | None) -> list[str]:
    found = []
    if section.get("padding", "torch") != "torch":
        found.append(
            f"It was trained with the padding `{section['padding']}`: {layout}'s network pads otherwise and gives "
            "other features; model.onnx and radnet_jax keep it."
        )
    usual = MODELS.defaults(section["name"]).get("norm_epsilon")
    if section.get("norm_epsilon", usual) != usual:
        found.append(f"Its BatchNorms add {section['norm_epsilon']:g} to the variance, those of other code {usual:g}.")
    if start.model_input.windows:
        found.append("Values are Hounsfield units: images that were windowed or scaled before are not what it expects.")
    generated = [run for run in (own, *rows) if run is not None and run.dataset.get("generated")]
    if generated:
        found.append("Data of these runs are generated, of no patient: the figures say nothing about real images.")
    if not rows:
        found.append("No task was judged: nothing is known about how well it transfers.")
    found.append("Nothing is known about patients unlike those of its data.")
    return found
