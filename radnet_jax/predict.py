"""A fine-tuned model on new patients: scores or masks of new images, or validation on another site's dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import csv
import json
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radnet_jax import external, mask_files, new_images, sharding, trained
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger
from radnet_jax.evaluation.canonical import jsonable
from radnet_jax.parts import check_workdir

FORMATS = ("csv", "parquet")
USED_FILE = "predict.json"


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Writes predictions.csv (or .parquet) with a row for each image, slice or frame; or judges another site's dataset.

    Returns:
      The workdir.

    Raises:
      UserError: whatever a user can mend, before anything is written.
    """
    _check(config)
    workdir = check_workdir(workdir, need_bytes=2**22)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.batch_size, mesh)
    if config.external.dir:
        external.validate(
            config.of,
            config.external.dir,
            workdir,
            site=config.external.site,
            labels=_mapping(config.external.labels),
            mesh=mesh,
            batch_size=config.batch_size,
            start=config.external.start,
        )
        record = ledger.read_run(workdir).record
        result = record["metrics"][external.JUDGED_AS][record["primary_metric"]]
        logging.info("%s: %s %s", record["name"], record["primary_metric"], result["value"])
        return workdir
    model = trained.load(config.of, mesh)
    images = new_images.find(config.images, model.card, value_range=config.value_range, burned_in=config.burned_in)
    adapter = model.adapter_for(images.spec.stored)
    options: dict[str, Any] = dict(batch_size=config.batch_size, mesh=mesh)
    if model.rules is not None:
        masks = model.masks(images, adapter, **options)
        names = mask_files.stems(images.names(config.names))
        counts = np.zeros((len(images), len(model.card.segmentation)), np.int64)
        for row, pixels in mask_files.write(images, masks, names, workdir / "masks", config.masks):
            counts[row] = pixels
        columns = {f"pixels_{name}": counts[:, k].tolist() for k, name in enumerate(model.card.segmentation)}
    else:
        out = model.predict(images, adapter, **options)
        scores = evaluators.scores_of(out["logits"], model.card)
        columns = {f"score_{name}": scores[:, k].tolist() for k, name in enumerate(model.card.labels)}
    if jax.process_index() == 0:
        _write(config, workdir, model, images, columns)
    return workdir


def _check(config: ConfigDict) -> None:
    if bool(config.images) == bool(config.external.dir):
        raise UserError(
            "predict: one of two is needed",
            got="both" if config.images else "neither",
            expected="config.images (new images) or config.external.dir (another site's dataset)",
        )
    if config.external.dir and not config.external.site:
        raise UserError("config.external.site is missing", expected="a name for the other site, for the report")
    for name, value, valid in (
        ("names", config.names, new_images.NAMES),
        ("format", config.format, FORMATS),
        ("burned_in", config.burned_in, ("reject", "keep")),
        ("masks", config.masks, mask_files.FORMATS),
    ):
        if value not in valid:
            raise UserError(f"config.{name}", got=repr(value), expected=" or ".join(valid))
    mask_files.check(config.masks)


def _mapping(pairs: Sequence[Any]) -> dict[str, str]:
    if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise UserError("config.external.labels", got=tuple(pairs), expected="pairs (theirs, ours)")
    return {str(their): str(our) for their, our in pairs}


def _write(
    config: ConfigDict,
    workdir: Path,
    model: trained.Trained,
    images: new_images.NewImages,
    found: Mapping[str, Sequence[float]],
) -> None:
    """Writes the table and what it was made with; a file that can't be used has a row with its reason and no scores."""
    columns: dict[str, list[Any]] = {"image": images.names(config.names), "frame": [r.frame for r in images.rows]}
    reasons = [images.rejected.get((row.path, row.frame), "") for row in images.rows]
    unread = [row.path for row in images.rows]
    lost = [(path, frame) for path, frame in images.rejected if path not in unread]
    columns["image"] += images.names_of([path for path, _ in lost], config.names)
    columns["frame"] += [frame for _, frame in lost]
    columns["rejected"] = reasons + [images.rejected[key] for key in lost]
    for name, values in found.items():
        kept = (None if reason else value for value, reason in zip(values, reasons, strict=True))
        columns[name] = [*kept, *([None] * len(lost))]
    path = workdir / f"predictions.{config.format}"
    temporary = path.with_name(f".{path.name}.tmp")
    if config.format == "parquet":
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    else:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    os.replace(temporary, path)
    counts = Counter(r for r in columns["rejected"] if r)
    used = {
        "run_id": model.record["run_id"],
        "name": model.record["name"],
        "task": model.record["task"],
        "weights": model.record["weights"],
        "adapter": model.adapter_for(images.spec.stored).to_json(),
        "images": len(columns["image"]) - sum(counts.values()),
        "rejected": dict(counts),
        "code": ledger.code_version(),
    }
    (workdir / USED_FILE).write_text(json.dumps(jsonable(used), indent=2) + "\n")
    told = f", {sum(counts.values())} rejected ({', '.join(f'{n} {r}' for r, n in counts.items())})" if counts else ""
    logging.info("%s: %d image(s)%s", path, used["images"], told)
