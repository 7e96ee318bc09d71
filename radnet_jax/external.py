"""External validation: a finished fine-tuning or linear probe judged on another site's dataset, as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import time
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh
from jaxtyping import Float
import numpy as np

from radnet_jax import trained, trained_probe
from radnet_jax.data.card import DatasetCard, read_card
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import evaluators, every_metric, ledger, segmentation
from radnet_jax.parts import lock
from radnet_jax.preprocessing import UNKNOWN_MASK

_Model: TypeAlias = trained.Trained | trained_probe.TrainedProbe
JUDGED_AS = "test"  # nothing of another site is trained on or chosen by


def check_labels(labels: Mapping[str, str], theirs: DatasetCard, ours: tuple[str, ...], kind: str) -> None:
    """Refuses a label mapping {theirs: ours} that names what is not there, or does not fit the kind of task."""
    _check_names(labels, theirs.name, theirs.labels, ours)
    if kind == "single_label" and theirs.task != "single_label":
        raise UserError(
            f"label mapping: the model tells classes apart, dataset {theirs.name} has findings", got=theirs.task
        )
    if kind == "single_label" and len(set(labels.values())) < 2:
        raise UserError("label mapping: one class is left, and there is nothing to tell apart", got=dict(labels))


def _check_names(labels: Mapping[str, str], dataset: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    if not labels:
        raise UserError(
            f"no label mapping for dataset {dataset}",
            expected=f"{{theirs: ours}}, from {', '.join(theirs) or 'no labels'} to {', '.join(ours)}",
        )
    for their, our in labels.items():
        for name, valid, side in ((their, theirs, f"dataset {dataset}"), (our, ours, "the model")):
            if name not in valid:
                raise UserError(
                    f"label mapping: {side} has no label {name!r}{nearest(name, valid)}",
                    expected=f"one of {', '.join(valid) or 'none'}",
                )


def reading(
    labels: Mapping[str, str], theirs: DatasetCard, ours: DatasetCard, rules: segmentation.Rules
) -> segmentation.Reading:
    """Returns how another site's masks are read as ours.

    A class of theirs that stands for none of ours is background. A region of ours can be judged where each of its
    classes has a counterpart, or where the class of its own name has one: whoever draws livers without their tumours
    apart has drawn the whole liver.

    Args:
      labels: {theirs: ours}, names of mask classes; several of theirs may stand for one of ours.
      theirs: card of their dataset.
      ours: card of what the model was trained on.
      rules: how the model's masks are judged.

    Raises:
      UserError: names that are not there, no region that can be judged, or windows at another scale.
    """
    _check_names(labels, theirs.name, theirs.segmentation, ours.segmentation)
    if rules.inference == "windows" and theirs.stored.size != ours.stored.size:
        raise UserError(
            f"the model looks through windows at the scale of its own dataset, and {theirs.name} has another",
            got=theirs.stored.size,
            expected=ours.stored.size,
            fix=f"build {theirs.name} with --size={ours.stored.size[0]}",
        )
    values = [0] * 256
    values[UNKNOWN_MASK] = UNKNOWN_MASK
    for their, our in labels.items():
        values[1 + theirs.segmentation.index(their)] = 1 + ours.segmentation.index(our)
    of_class = {name: i for i, name in enumerate(ours.segmentation, start=1)}
    drawn = {of_class[our] for our in labels.values()}
    regions = {name: set(classes) & set(of_class.values()) for name, classes in rules.of(ours).items()}
    judged = tuple(name for name, classes in regions.items() if classes <= drawn or of_class.get(name) in drawn)
    if not judged:
        raise UserError(
            "label mapping: no region can be judged",
            got=", ".join(sorted(set(labels.values()))),
            expected=f"all classes of one of {', '.join(regions)}",
        )
    return segmentation.Reading(ours, tuple(values), judged)


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
    batch_size: int = 256, start: str | Path = "",
) -> Path:  # fmt: skip
    """Judges a finished fine-tuning or linear probe on all records of another site's dataset, and writes that as a run.

    The task of the run is "<task> at <site>": in a report it stands beside the task itself.

    Args:
      run: its folder.
      dataset: folder of the dataset, built with any splits.
      workdir: folder of the new run.
      site: its name.
      labels: {theirs: ours}, of findings, classes or mask classes; what of theirs is not named is not looked at.
      mesh: where to compute.
      batch_size: global.
      start: of a probe, what it has judged: a workdir, or imported weights.

    Returns:
      The workdir.

    Raises:
      UserError: what can't be judged, before anything is computed.
    """
    began = time.perf_counter()
    workdir = Path(workdir)
    if ledger.is_finished(workdir):
        return workdir
    is_probe = ledger.read_run(run).record["kind"] == "linear_probe"
    model = trained_probe.load(run, start, mesh) if is_probe else trained.load(run, mesh)
    card = read_card(dataset)
    masks = model if isinstance(model, trained.Trained) and model.rules is not None else None
    if masks is not None:
        assert masks.rules is not None
        read, regions = reading(labels, card, model.card, masks.rules), masks.rules.regions
    else:
        check_labels(labels, card, model.card.labels, model.card.task)
    adapter = model.adapter_for(card.stored)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock(workdir):
        splits = [open_split(dataset, name) for name, n in card.splits.items() if n]
        if masks is not None:
            options: dict[str, Any] = dict(batch_size=batch_size, mesh=mesh, reading=read)
            predictions = ledger.together([masks.judged_masks(split, adapter, **options) for split in splits])
            predictions = dataclasses.replace(predictions, split=[JUDGED_AS] * len(predictions.case_id))
            metrics = every_metric.of_masks(predictions, regions)
        else:
            scores = {split: model.scores(split, adapter, batch_size=batch_size, mesh=mesh) for split in splits}
            predictions = _predictions(model, card, scores, labels)
            metrics = every_metric.of_labels(predictions)
        record = _record(model, card, adapter, site, labels, metrics, time.perf_counter() - began)
        if jax.process_index() == 0:
            ledger.write_run(workdir, record, predictions=predictions)
    return workdir


def _predictions(
    model: _Model, card: DatasetCard, scores: Mapping[Split, np.ndarray], mapping: Mapping[str, str]
) -> ledger.Predictions:
    found = evaluators.predictions_of(dict(scores))
    labels, mask = relabel(found.labels, found.label_mask, card.labels, model.card.labels, mapping, model.card.task)
    return dataclasses.replace(found, split=[JUDGED_AS] * len(found.case_id), labels=labels, label_mask=mask)


def _record(
    model: _Model,
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
