"""The `import` run: a file of public weights becomes a start, in the form of a checkpoint, and says what it is."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import trees
from radnet_jax.checkpoint import FOLDER, Checkpoints
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import ledger
from radnet_jax.models import MODELS
from radnet_jax.parts import check_workdir, lock, plain
from radnet_jax.preprocessing import ModelInput
from radnet_jax.registry import check_arguments
from radnet_jax.weights import cards, containers, inspecting, matching, scale
from radnet_jax.weights.cards import SourceCard

REPORT_FILE = "import.json"
STEMS = ("repeat", "sum")


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights of a source, as ours.

    Attributes:
      arrays: by name, "params/..." and "batch_stats/..."; float32.
      backbone: the backbone section that they fit.
      model_input: what they expect to see.
      report: what import.json holds.
    """

    arrays: dict[str, np.ndarray]
    backbone: dict[str, Any]
    model_input: ModelInput
    report: dict[str, Any]


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Imports config.file as config.source into the workdir, which is then given as `init_from`.

    Raises:
      UserError: whatever is wrong with the file, see `read`; a workdir that holds another import, or a run.
    """
    card = cards.load(config.source)
    if not config.file:
        where = ", ".join(sorted({f["url"] for f in card.files.values()})) or card.home
        raise UserError(
            "config.file is missing", expected=f"the file of {card.title}", fix=f"it is to be had at {where}"
        )
    settings = {key: plain(config[key]) for key in ("source", "backbone", "arguments", "stem", "rescale", "input")}
    workdir = check_workdir(workdir, need_bytes=2**24)
    with lock(workdir):
        imported = read(config.file, card, **{k: v for k, v in settings.items() if k != "source"})
        asked = {"settings": settings, "sha256": imported.report["file"]["sha256"]}
        if _is_there(workdir, asked):
            logging.info("%s holds this import already: skipped", workdir)
            return workdir
        _write(workdir, imported, asked)
    report = imported.report
    logging.info(
        "%s: %d arrays of %s, %d names left out, norm %.4g; start from it with --config.init_from=%s",
        report["source"]["name"], report["keys"]["used"], _spelled(imported.backbone),
        sum(len(v) for v in report["keys"]["ignored"].values()), report["norms"]["total"], workdir,
    )  # fmt: skip
    for odd in [*report["notes"], *report["batch_statistics"].get("odd", ())]:
        logging.warning("%s: %s", report["source"]["name"], odd)
    return workdir


def read(
    file: str | Path,
    card: SourceCard,
    *,
    backbone: str = "",
    arguments: Mapping[str, Any] | None = None,
    stem: str = "repeat",
    rescale: str = "none",
    input: Mapping[str, Any] | None = None,
) -> Imported:
    """Reads a file of weights as a source's.

    Args:
      file: of any kind that `containers` reads.
      card: the source.
      backbone: one of the card's; "" for its only one.
      arguments: of the backbone, where they differ from the card's.
      stem: "repeat" (three channels, to which a grey image is repeated) or "sum" (one channel, filters summed: the
        same for grey images, standardised alike in each channel).
      rescale: "none", or "initial": each kernel in front of a BatchNorm gets the norm of a fresh one, see `scale`.
      input: a model input in place of the card's.

    Raises:
      UserError: no file, a damaged or foreign one, names or shapes that do not fit, values that are not finite, a model
        input that is not whole or not of three channels.
    """
    if stem not in STEMS:
        raise UserError(f"unknown config.stem {stem!r}{nearest(stem, STEMS)}", expected=" or ".join(STEMS))
    name = Path(file).name
    section = card.section(backbone, arguments or {})
    _check_arguments(section)
    model_input = ModelInput.from_json(input) if input else card.input
    if model_input.channels != 3:
        raise UserError(
            "config.input is not of the file's network", got=f"{model_input.channels} channel(s)", expected="3",
            fix="say what three channels see; --config.stem=sum makes one of them",
        )  # fmt: skip
    contents = containers.read(file)
    found = matching.match(matching.select(contents.tree, card, name), card, section, name)
    arrays, file_facts = found.arrays, {"name": name, "kind": contents.kind, "bytes": contents.size}
    sha256 = contents.sha256
    del contents  # lets go of the mapped file
    inspecting.check_finite(arrays, name)
    statistics = inspecting.batch_statistics(arrays, found.batches, name)
    if stem == "sum":
        arrays, model_input = _one_channel(arrays, model_input)
    norms = inspecting.norms(arrays)
    if rescale != "none":
        arrays = scale.rescale(arrays, section, to=rescale)
        norms["after_rescale"] = inspecting.norms(arrays)
    notes = [note] if (note := _hash_note(Path(file).expanduser(), card, section["name"], sha256)) else []
    if set(found.dtypes) != {"float32"}:
        notes.append(f"weights were stored as {', '.join(sorted(found.dtypes))} and are float32 now")
    report = {
        "format": 1,
        "source": {"name": card.name, "title": card.title, "objective": card.objective, "data": card.data}
        | {"epochs": card.epochs, "licence": card.licence, "home": card.home, "note": card.note},
        "file": file_facts | {"sha256": sha256},
        "backbone": section,
        "model_input": model_input.to_json(),
        "stem": stem,
        "keys": {"used": len(arrays), "dtypes": found.dtypes, "ignored": found.ignored},
        "norms": norms,
        "batch_statistics": statistics,
        "notes": notes,
    }
    return Imported(arrays, section, model_input, report)


def _check_arguments(section: Mapping[str, Any]) -> None:
    kwargs = {k: v for k, v in section.items() if k != "name"}
    check_arguments(f"model {section['name']!r}", MODELS.get(section["name"]), kwargs)


def _one_channel(arrays: dict[str, np.ndarray], model_input: ModelInput) -> tuple[dict[str, np.ndarray], ModelInput]:
    (stem,) = (name for name in arrays if name.endswith(("/stem_conv/kernel", "/patch_embed/kernel")))
    summed = arrays[stem].sum(axis=2, keepdims=True)
    mean, std = float(np.mean(model_input.mean)), float(np.mean(model_input.std))
    return {**arrays, stem: summed}, dataclasses.replace(model_input, channels=1, mean=(mean,), std=(std,))


def _hash_note(path: Path, card: SourceCard, backbone: str, sha256: str) -> str:
    """What is to be said where the file's hash is not the published one; "" where it is, or none is published."""
    kind, _, published = card.files.get(backbone, {}).get("hash", "").partition(":")
    if not published:
        return ""
    if kind == "md5":
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "md5").hexdigest()
    else:
        own = sha256
    if own.startswith(published):
        return ""
    return f"the file's {kind} begins with {own[: len(published)]}, the published file's with {published}: another file"


def _is_there(workdir: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the workdir holds this very import; refuses one that holds another, or a run."""
    path = workdir / REPORT_FILE
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")).get("asked") == plain(asked):
            return True
        raise UserError(f"workdir {workdir} holds another import", fix="use a new --workdir, or delete this one")
    if any((workdir / FOLDER).glob("[0-9]*")):
        raise UserError(f"workdir {workdir} holds a run", fix="use a new --workdir")
    return False


def _write(workdir: Path, imported: Imported, asked: Mapping[str, Any]) -> None:
    """Writes the checkpoint, then the report, whose presence means that the import is whole."""
    params = {k.removeprefix("params/"): v for k, v in imported.arrays.items() if k.startswith("params/")}
    stats = {k.removeprefix("batch_stats/"): v for k, v in imported.arrays.items() if k.startswith("batch_stats/")}
    state = {
        "params": {"backbone": trees.nested(params)},
        "model_state": {"batch_stats": {"backbone": trees.nested(stats)}} if stats else {},
    }
    source, file = imported.report["source"], imported.report["file"]
    meta = {
        "run_id": f"{source['name']}-{file['sha256'][:16]}",
        "config": {"backbone": imported.backbone},
        "checkpoint": None,
        "model_input": imported.model_input.to_json(),
        "imported": imported.report,
        "code": ledger.code_version(),
    }
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(0, state, meta)
    checkpoints.close()
    temporary = workdir / f".{REPORT_FILE}.{os.getpid()}.tmp"
    report = {**imported.report, "asked": asked}
    temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, workdir / REPORT_FILE)


def _spelled(section: Mapping[str, Any]) -> str:
    return ", ".join(str(v) if k == "name" else f"{k}={v}" for k, v in section.items())
