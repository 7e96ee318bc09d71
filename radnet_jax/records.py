"""What a run leaves behind: its meta, its metrics, and the record that the ledger keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import importlib.metadata
from pathlib import Path
import platform
from typing import Any

from absl import logging
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import sharding, xla_flags
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.data.labels import Counts, count_labels, count_mask_classes
from radnet_jax.errors import OtherRunError, UserError, nearest
from radnet_jax.evaluation import evaluators, every_metric, ledger, segmentation
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS, higher_is_better, task_kinds
from radnet_jax.objectives import Objective
from radnet_jax.parts import Parts, make_objective, plain
from radnet_jax.registry import check_arguments

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "array-record", "numpy", "scipy")
_USUAL = ("accuracy", "auroc")
_WATCHING = ("log_every", "sinks", "profile", "knn")
_OUTSIDE = (
    "name",
    "checkpoint",
    "tags",
    "mesh",
    "fsdp",
    "remat",
    "audit",
    "dataset_command",
    *_WATCHING,
)  # say nothing about the result
_PLACES = (("init_from",), ("data", "dir"), ("probe", "cache_dir"))  # what is there is named by fingerprints


def public_config(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON types, with places cut to their last part: paths can carry names."""
    resolved = plain(config)
    for *section, key in _PLACES:
        holder = resolved
        for name in section:
            holder = holder.get(name, {})
        if key in holder:
            holder[key] = Path(holder[key]).name
    return resolved


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a plain config without what says nothing about the result: logging, saving, names and places."""
    outside = set(_OUTSIDE)
    if config.get("judged_weights") == "best" and not config["data"]["judge"]:
        outside.remove("knn")  # it chooses what the run leaves behind
    resolved = {k: v for k, v in config.items() if k not in outside}
    for *section, key in _PLACES:
        if not section:
            resolved.pop(key, None)
        elif section[0] in resolved:
            resolved[section[0]] = {k: v for k, v in resolved[section[0]].items() if k != key}
    return resolved


def signature(config: ConfigDict, parts: Parts) -> dict[str, Any]:
    """Returns what makes a run this run: config, dataset and start. The same for any spelling of any folder."""
    return {
        "config": identity(plain(config)),
        "dataset": parts.split.card.fingerprint,
        "start": parts.start.id if parts.start else None,
    }


def _signature_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The signature of a finished run, or of a checkpoint's meta."""
    return {
        "config": identity(record["config"]),
        "dataset": record["dataset"]["fingerprint"],
        "start": record["checkpoint"],
    }


def run_id(config: ConfigDict, parts: Parts) -> str:
    """Returns the run's id: resolved config, start, dataset and code."""
    what = signature(config, parts)
    return ledger.run_id({"config": what["config"], "start": what["start"]}, what["dataset"], ledger.code_version())


def checkpoint_meta(config: ConfigDict, parts: Parts) -> dict[str, Any]:
    """Returns the meta of each checkpoint: what is needed to go on, and to start another run from it."""
    card = parts.split.card
    return {
        "run_id": run_id(config, parts),
        "config": public_config(config),
        "checkpoint": parts.start.id if parts.start else None,
        "model_input": parts.model_input.to_json(),
        "dataset": {"name": card.name, "fingerprint": card.fingerprint},
        "lineage": lineage(parts),
        "topology": sharding.topology(parts.mesh),
        "code": ledger.code_version(),
    }


def lineage(parts: Parts) -> list[dict[str, str]]:
    """Returns the datasets that the start was trained on, oldest first."""
    return [{"name": n, "fingerprint": f} for n, f in (parts.start.lineage if parts.start else ())]


def check_same_run(record: Mapping[str, Any], config: ConfigDict, parts: Parts, workdir: Path, what: str) -> None:
    """Refuses a workdir whose `what` (a finished run, a checkpoint) is of another config, dataset or start.

    One that was made by other code is kept, with a warning: what it was made with stands in its record.
    """
    before, now = (dict(_flat(s)) for s in (_signature_of(record), signature(config, parts)))
    differing = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    if differing:
        name = differing[0]
        raise OtherRunError(
            f"workdir {workdir} holds {what} of another config, dataset or start ({len(differing)} difference(s))",
            got=f"{name}={now.get(name)}",
            expected=f"{before.get(name)}, as in the workdir",
            fix="use a new --workdir (more steps is a new run: give it init_from), or go back to the old settings",
        )
    if record["run_id"] != run_id(config, parts):
        logging.warning("%s holds %s by other code (run %s): kept", workdir, what, record["run_id"])


def check_checkpoint(meta: Mapping[str, Any], config: ConfigDict, parts: Parts, workdir: Path) -> None:
    """Refuses to go on from a checkpoint of another run, or of this run from --deterministic to without it.

    Other devices are no reason to refuse, but what follows is then not bit for bit what it would have been: it is said.
    """
    check_same_run(meta, config, parts, workdir, "a checkpoint")
    before, now = meta["topology"], sharding.topology(parts.mesh)
    were, are = (xla_flags.is_deterministic(t.get("xla_flags", ())) for t in (before, now))  # older ones name none
    if were and not are:
        raise UserError(
            f"workdir {workdir} holds a checkpoint that was made with --deterministic",
            fix="add --deterministic, or use a new --workdir",
        )
    if are and not were:
        logging.warning("%s: until this checkpoint the run was not --deterministic", workdir)
    if changed := [k for k in ("platform", "device_kind", "devices", "processes") if before[k] != now[k]]:
        told = ", ".join(f"{k} {before[k]}, now {now[k]}" for k in changed)
        logging.warning("%s: goes on elsewhere (%s): as exact as float32 sums are, not bit for bit", workdir, told)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _flat(child, f"{name}.{key}" if name else key)
    else:
        yield name, value


def check_classes(config: ConfigDict, parts: Parts) -> None:
    """Refuses a train split without labels, or one that has no record of a class."""
    counts = count_labels(parts.split)
    if not any(counts.known):
        raise UserError(
            f"split {parts.split.name!r} of dataset {parts.split.card.name} has no labels", fix="use a labelled dataset"
        )
    _check_missing(config, parts, lambda: counts)


def check_mask_classes(config: ConfigDict, parts: Parts) -> None:
    """Refuses a train split without masks, or one that shows a class in no mask."""
    if not parts.split.card.segmentation:
        raise UserError(f"dataset {parts.split.card.name} has no masks", fix="use a dataset that has them")
    _check_missing(config, parts, lambda: count_mask_classes(parts.split))


def _check_missing(config: ConfigDict, parts: Parts, counts: Callable[[], Counts]) -> None:
    choice = config.data.missing_classes
    if choice not in ("refuse", "allow"):
        raise UserError("config.data.missing_classes", got=repr(choice), expected="refuse or allow")
    if choice == "refuse":
        counts().check(" of ".join(filter(None, (parts.split.part, f"split {parts.split.name!r}"))))


def check_judged(config: ConfigDict, parts: Parts) -> list[Split]:
    """Returns the splits that the run is judged on ([] for pretraining); refuses metrics that do not fit the task."""
    if not config.data.judge:
        return []
    (task, _), metric = judged_task(config, parts), config.primary_metric
    if task not in task_kinds(metric):
        fitting = [name for name in METRICS.names() if task in task_kinds(name) and higher_is_better(name)]
        raise UserError(
            f"primary_metric {metric!r} is not defined for a {task} task such as dataset {parts.split.card.name}",
            expected=" or ".join(fitting),
            fix=f"set --config.primary_metric={_usual(fitting)}" if fitting else "use a labelled dataset",
        )
    if not higher_is_better(metric):
        raise UserError(
            f"primary_metric {metric!r} is an error, and starts are ranked by what is better when higher",
            fix="it stands in every run.json beside the primary metric",
        )
    splits = [open_judged(config, name) for name in config.data.judge]
    if rules := mask_rules(config, parts):
        for split in splits:
            segmentation.check_spacing(rules, split)
    return splits


def open_judged(config: ConfigDict, name: str) -> Split:
    """Opens a split that a run is judged on, or selected by, where only `data.judged_labels` are known."""
    split = open_split(config.data.dir, name)
    judged = tuple(config.data.judged_labels)
    for label in judged:
        if label not in split.card.labels:
            raise UserError(
                f"config.data.judged_labels: unknown label {label!r}{nearest(label, split.card.labels)}",
                expected=f"some of {', '.join(split.card.labels)}",
            )
    if judged and split.card.task != "multi_label":
        raise UserError(
            "config.data.judged_labels is for findings", got=f"a {split.card.task} task", fix="set it to ()"
        )
    return dataclasses.replace(split, judged=judged)


def _usual(fitting: list[str]) -> str:
    """The metric that a task is usually judged by, of those that are defined for it."""
    return next((name for name in _USUAL if name in fitting), fitting[0])


def mask_rules(config: ConfigDict, parts: Parts) -> segmentation.Rules | None:
    """Returns how the run's masks are judged; None for a run that is judged by labels, or not at all."""
    if config.run != "train" or make_objective(config, parts).judged != "masks":
        return None
    if "masks" not in config:
        raise UserError("config.masks is missing", expected="how masks are judged, as configs/finetune/lits.py has it")
    if crops := [views for views in plain(config.views).values() if views != "whole"]:
        raise UserError("config.views: masks are judged on whole images", got=", ".join(crops), expected="whole")
    section = plain(config.masks)
    check_arguments("config.masks", segmentation.Rules, section)
    return segmentation.Rules(**section)


def judged_task(config: ConfigDict, parts: Parts) -> tuple[str, tuple[str, ...]]:
    """Returns the kind of task that a run is judged on, and the names of its labels or regions."""
    rules, card = mask_rules(config, parts), parts.split.card
    return (card.task, card.labels) if rules is None else (segmentation.TASK, tuple(rules.of(card)))


def scores(
    config: ConfigDict,
    parts: Parts,
    objective: Objective,
    params: PyTree,
    model_state: PyTree,
    split: Split,
    views: str,
) -> Float[np.ndarray, "n k"] | Predictions:
    """Returns what `judge` takes of a split: probabilities by case, of the whole image or of crops (`views`), or its
    judged masks.
    """
    predict = evaluators.predict_of(objective)
    options: dict[str, Any] = dict(adapter=parts.adapter, batch_size=config.eval_batch_size, mesh=parts.mesh)
    rules = mask_rules(config, parts)
    if rules is not None:
        return segmentation.predict_masks(predict, params, model_state, split, rules=rules, **options)
    out = evaluators.predict_split(predict, params, model_state, split, views=views, **options)
    return evaluators.scores_of(out["logits"], split.card)


def judge(
    config: ConfigDict,
    scores: Mapping[Split, Float[np.ndarray, "n k"] | Predictions],
) -> tuple[Predictions, dict[str, dict[str, Any]]]:
    """Returns the predictions of a run and every metric that is defined for its task, on each whole split.

    Of a run that is judged by masks, `scores` are the predictions of each split already.
    """
    masks = [p for p in scores.values() if isinstance(p, Predictions)]
    if masks:
        return ledger.together(masks), {p.split[0]: every_metric.of_masks(p, config.masks.regions) for p in masks}
    predictions = evaluators.predictions_of({k: v for k, v in scores.items() if not isinstance(v, Predictions)})
    metrics = {}
    for split in scores:
        metrics[split.name] = every_metric.of_labels(predictions.of(split.name))
    return predictions, metrics


def run_record(
    config: ConfigDict,
    parts: Parts,
    *,
    timings: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, Any]],
    weights: str = "last",
    best: Mapping[str, Any] | None = None,
    steps: int = 0,
) -> dict[str, Any]:
    """Returns what run.json holds.

    Args:
      config: of the run.
      parts: of the run.
      timings: in seconds.
      metrics: {weights: {split: {metric: value}}}; {} where nothing is judged.
      weights: whose metrics are the run's.
      best: step and value of the weights that a split, or the neighbours beside a pretraining, selected.
      steps: updates that were made.
    """
    card = parts.split.card
    tags = plain(config.tags)
    record = {
        "run_id": run_id(config, parts),
        "name": config.name,
        "seed": config.seed,
        "checkpoint": parts.start.id if parts.start else None,
        "config": public_config(config),
        "dataset": {"name": card.name, "fingerprint": card.fingerprint, "splits": dict(card.splits)}
        | {"generated": card.generated, "train_records": len(parts.split)}
        | {"labels": list(card.labels), "segmentation": list(card.segmentation), "task": card.task},
        "code": ledger.code_version(),
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES} | {"python": platform.python_version()},
        "topology": sharding.topology(parts.mesh),
        "timings": dict(timings),
        "adapter": parts.adapter.to_json(),
        "lineage": lineage(parts),
        "steps": steps,
        "best": best,
        "kind": tags.pop("kind"),
        **tags,
    }
    if config.data.judge:
        task, names = judged_task(config, parts)
        record |= {
            "primary_metric": config.primary_metric,
            "weights": weights,
            "metrics": metrics[weights],
            "metrics_of_weights": dict(metrics),
            "label_names": list(names),
            "task_kind": task,
        }
    return record


def outcome(record: Mapping[str, Any]) -> str:
    """Returns one line for the console: what came out of a run, and how long it took."""
    seconds = f"{record['timings']['total_s']:.1f} s"
    if not record.get("metrics"):
        return f"{record['name']}: trained in {seconds}"
    metric = record["primary_metric"]
    parts = []
    for split, metrics in record["metrics"].items():
        value = metrics[metric]
        value, reason = (value["value"], value["reason"]) if isinstance(value, Mapping) else (value.value, value.reason)
        parts.append(
            f"{split} {value:.3f}" if value is not None and value == value else f"{split} undefined ({reason})"
        )
    return f"{record['name']}: {metric} {', '.join(parts)} ({seconds})"


def is_finished(config: ConfigDict, parts: Parts, workdir: Path) -> bool:
    """Whether the workdir holds this very run, finished; refuses a finished run of another config, dataset or start."""
    if not ledger.is_finished(workdir):
        return False
    check_same_run(ledger.read_run(workdir).record, config, parts, workdir, "a finished run")
    logging.info("%s is finished: skipped", workdir)
    return True
