"""External validation: a finished fine-tuning judged on another site's dataset, as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import time
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Float
import numpy as np

from radnet_jax import records, trained
from radnet_jax.data.card import DatasetCard, read_card
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import evaluators, ledger
from radnet_jax.parts import lock

JUDGED_AS = "test"  # nothing of another site is trained on or chosen by


def check_labels(labels: Mapping[str, str], theirs: DatasetCard, ours: tuple[str, ...], kind: str) -> None:
    """Refuses a label mapping {theirs: ours} that names what is not there, or does not fit the kind of task."""
    if not labels:
        raise UserError(
            f"no label mapping for dataset {theirs.name}",
            expected=f"{{theirs: ours}}, from {', '.join(theirs.labels) or 'no labels'} to {', '.join(ours)}",
        )
    for their, our in labels.items():
        for name, valid, side in ((their, theirs.labels, f"dataset {theirs.name}"), (our, ours, "the model")):
            if name not in valid:
                raise UserError(
                    f"label mapping: {side} has no label {name!r}{nearest(name, valid)}",
                    expected=f"one of {', '.join(valid)}",
                )
    if kind == "single_label" and theirs.task != "single_label":
        raise UserError(
            f"label mapping: the model tells classes apart, dataset {theirs.name} has findings", got=theirs.task
        )
    if kind == "single_label" and len(set(labels.values())) < 2:
        raise UserError("label mapping: one class is left, and there is nothing to tell apart", got=dict(labels))


def relabel(
    labels: Float[np.ndarray, "n j"],
    mask: Float[np.ndarray, "n j"],
    theirs: tuple[str, ...],
    ours: tuple[str, ...],
    mapping: Mapping[str, str],
    kind: str,
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Returns another site's labels as ours, and which are known.

    A finding of ours is present where one of theirs that stands for it is, absent where all of them are known to be
    absent, unknown otherwise. A case of a class that stands for none of ours is unknown as a whole.

    Args:
      labels: theirs.
      mask: which of them are known.
      theirs: their names.
      ours: our names.
      mapping: {theirs: ours}, several of theirs may stand for one of ours.
      kind: of our task, "single_label" or "multi_label".
    """
    out, known = (np.zeros((len(labels), len(ours)), np.float32) for _ in range(2))
    for j, our in enumerate(ours):
        columns = [i for i, name in enumerate(theirs) if mapping.get(name) == our]
        if columns:
            present = ((labels[:, columns] > 0.5) & (mask[:, columns] > 0)).any(axis=1)
            out[:, j] = present
            known[:, j] = present | (mask[:, columns] > 0).all(axis=1)
    if kind == "single_label":
        known[:] = (out.sum(axis=1) == 1)[:, None]
    return out, known


def validate(
    run: str | Path, dataset: str | Path, workdir: str | Path, *, site: str, labels: Mapping[str, str], mesh: Mesh,
    batch_size: int = 256,
) -> Path:  # fmt: skip
    """Judges a finished fine-tuning on all records of another site's dataset, and writes that as a run.

    The task of the run is "<task> at <site>": in a report it stands beside the task itself.

    Args:
      run: folder of the fine-tuning.
      dataset: folder of the dataset, built with any splits.
      workdir: folder of the new run.
      site: its name.
      labels: {theirs: ours}; labels of theirs that are not named are not looked at.
      mesh: where to compute.
      batch_size: global.

    Returns:
      The workdir.

    Raises:
      UserError: what can't be judged, before anything is computed.
    """
    began = time.perf_counter()
    workdir = Path(workdir)
    if ledger.is_finished(workdir):
        return workdir
    model, card = trained.load(run, mesh), read_card(dataset)
    if model.rules is not None:
        raise UserError("external validation is of scores", got="a segmentation", fix="predict masks of the images")
    check_labels(labels, card, model.card.labels, model.card.task)
    adapter = model.adapter_for(card.stored)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock(workdir):
        splits = [open_split(dataset, name) for name, n in card.splits.items() if n]
        scores = {split: _scores(model, split, adapter, batch_size, mesh) for split in splits}
        predictions = _predictions(model, card, scores, labels)
        metrics = records.label_metrics(predictions)
        record = _record(model, card, adapter, site, labels, metrics, time.perf_counter() - began)
        if jax.process_index() == 0:
            ledger.write_run(workdir, record, predictions=predictions)
    return workdir


def _scores(
    model: trained.Trained, split: Split, adapter: Any, batch_size: int, mesh: Mesh
) -> Float[np.ndarray, "n k"]:
    out = model.predict(split, adapter, batch_size=batch_size, mesh=mesh)
    return evaluators.scores_of(out["logits"], model.card)


def _predictions(
    model: trained.Trained, card: DatasetCard, scores: Mapping[Split, np.ndarray], mapping: Mapping[str, str]
) -> ledger.Predictions:
    found = evaluators.predictions_of(dict(scores))
    labels, mask = relabel(found.labels, found.label_mask, card.labels, model.card.labels, mapping, model.card.task)
    return dataclasses.replace(found, split=[JUDGED_AS] * len(found.case_id), labels=labels, label_mask=mask)


def _record(
    model: trained.Trained,
    card: DatasetCard,
    adapter: Any,
    site: str,
    labels: Mapping[str, str],
    metrics: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    what = {"run": model.record["run_id"], "labels": dict(labels)}
    run_id = ledger.run_id(what, card.fingerprint, ledger.code_version())
    judged = {JUDGED_AS: dict(metrics)}
    return {
        **model.record,
        "run_id": run_id,
        "name": f"{model.record['name']} at {site}",
        "task": f"{model.record['task']} at {site}",
        "dataset": {
            "name": card.name,
            "fingerprint": card.fingerprint,
            "splits": dict(card.splits),
            "generated": card.generated,
            "train_records": 0,
        },
        "code": ledger.code_version(),
        "timings": {"total_s": seconds},
        "adapter": adapter.to_json(),
        "metrics": judged,
        "metrics_of_weights": {model.record["weights"]: judged},
        "external": {"of": model.record["run_id"], "site": site, "labels": dict(labels)},
    }
