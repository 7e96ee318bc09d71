"""What a run leaves behind: its meta, its metrics, and the record that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping
import importlib.metadata
from pathlib import Path
import platform
from typing import Any

from absl import logging
import jax
from jaxtyping import Float
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import sharding
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.parts import Parts, plain

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy", "scipy")
_OUTSIDE = ("log_every", "checkpoint", "tags")  # say nothing about the result


def identity(config: ConfigDict) -> dict[str, Any]:
    """Returns the config without what says nothing about the result: logging, saving, names and places."""
    resolved = {k: v for k, v in plain(config).items() if k not in (*_OUTSIDE, "name", "init_from")}
    resolved["data"] = {k: v for k, v in resolved["data"].items() if k != "dir"}  # the fingerprint says what is there
    return resolved


def run_id(config: ConfigDict, parts: Parts) -> str:
    """Returns the run's id: resolved config, start, dataset and code."""
    start = parts.start.id if parts.start else ""
    return ledger.run_id(identity(config) | {"start": start}, parts.split.card.fingerprint, ledger.code_version())


def checkpoint_meta(config: ConfigDict, parts: Parts) -> dict[str, Any]:
    """Returns the meta of each checkpoint: what is needed to go on, and to start another run from it."""
    card = parts.split.card
    return {
        "run_id": run_id(config, parts),
        "config": plain(config),
        "model_input": parts.model_input.to_json(),
        "dataset": {"name": card.name, "fingerprint": card.fingerprint},
        "topology": sharding.topology(parts.mesh),
        "code": ledger.code_version(),
    }


def check_judged(config: ConfigDict, parts: Parts) -> list[Split]:
    """Returns the splits that the run is judged on ([] for pretraining); refuses unknown metrics and empty splits."""
    if not config.data.judge:
        return []
    METRICS.get(config.primary_metric)
    return [open_split(config.data.dir, name) for name in config.data.judge]


def judge(
    scores: Mapping[Split, Float[np.ndarray, "n k"]],
) -> tuple[Predictions, dict[str, dict[str, Any]]]:
    """Returns the predictions of a run and every metric that is defined for its task, on each whole split."""
    predictions = evaluators.predictions_of(dict(scores))
    metrics = {}
    for split in scores:
        part = predictions.of(split.name)
        metrics[split.name] = {
            name: METRICS.get(name)(part.scores, part.labels, part.label_mask) for name in METRICS.names()
        }
    return predictions, metrics


def run_record(
    config: ConfigDict, parts: Parts, *, timings: Mapping[str, float], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what run.json holds."""
    card = parts.split.card
    tags = plain(config.tags)
    record = {
        "run_id": run_id(config, parts),
        "name": config.name,
        "seed": config.seed,
        "checkpoint": parts.start.id if parts.start else None,
        "config": plain(config),
        "dataset": {"name": card.name, "fingerprint": card.fingerprint, "splits": dict(card.splits)}
        | {"generated": card.generated},
        "code": ledger.code_version(),
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES} | {"python": platform.python_version()},
        "topology": sharding.topology(parts.mesh),
        "timings": dict(timings),
        "adapter": parts.adapter.to_json(),
        "kind": tags.pop("kind"),
        **tags,
    }
    if config.data.judge:
        record |= {
            "primary_metric": config.primary_metric,
            "metrics": metrics,
            "label_names": list(card.labels),
            "task_kind": card.task,
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
    """Whether the workdir holds this very run, finished; refuses a finished run of another config or dataset.

    A run that was finished by other code is kept, with a warning: what it was made with stands in its run.json.
    """
    if not ledger.is_finished(workdir):
        return False
    record = ledger.read_run(workdir).record
    same = _comparable(record) == _comparable(
        {
            "config": plain(config),
            "dataset": {"fingerprint": parts.split.card.fingerprint},
            "checkpoint": parts.start.id if parts.start else None,
        }
    )
    if not same:
        raise UserError(
            f"workdir {workdir} holds a finished run of another config, dataset or start",
            got=f"run {record['run_id']}",
            expected=f"run {run_id(config, parts)}",
            fix="use a new --workdir, or delete this one",
        )
    if record["run_id"] != run_id(config, parts):
        logging.warning("%s was finished by other code (run %s): kept", workdir, record["run_id"])
    if jax.process_index() == 0:
        logging.info("%s is finished: skipped", workdir)
    return True


def _comparable(record: Mapping[str, Any]) -> tuple[Any, ...]:
    config = ConfigDict(record["config"])
    return identity(config), record["dataset"]["fingerprint"], record["checkpoint"]
