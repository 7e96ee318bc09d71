"""Judges a frozen backbone on a task: linear probe or nearest neighbours, from one cached pass of features."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import os
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import records, rng, sharding, starts
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import evaluators, ledger, probes
from radnet_jax.evaluation.canonical import canonical_json
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.parts import Parts, assemble, check_workdir, lock, plain

BATCH_STATS = ("start", "initial", "reestimated")


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Probes the backbone of `init_from`, or a random one, on the dataset; writes the run's folder.

    A random backbone has no BatchNorm statistics of its own: `probe.batch_stats` says whether it keeps the "initial"
    ones or has them "reestimated" on train; a pretrained one keeps those of its "start".
    """
    began = time.perf_counter()
    parts = assemble(config)
    judged = check(config, parts)
    workdir = check_workdir(workdir, need_bytes=2**24)
    if records.is_finished(config, parts, workdir):
        return workdir
    with lock(workdir):
        return _run(config, parts, judged, workdir, began)


def check(config: ConfigDict, parts: Parts) -> list[Split]:
    """Makes every check that needs no weights; returns the splits that the run will be judged on."""
    probe = config.probe
    if probe.name not in _PROBES:
        raise UserError(f"unknown probe {probe.name!r}{nearest(probe.name, _PROBES)}", expected=", ".join(_PROBES))
    expected = BATCH_STATS[:1] if parts.start else BATCH_STATS[1:]
    if probe.batch_stats not in expected:
        raise UserError(
            "probe.batch_stats does not fit the start", got=probe.batch_stats, expected=" or ".join(expected)
        )
    if parts.split.card.task == "none" or not parts.split.all_labels()[1].any():
        raise UserError(f"dataset {parts.split.card.name} has no labels to probe", fix="use a labelled dataset")
    if probe.name == "linear_probe" and "val" not in config.data.judge:
        raise UserError("the linear probe chooses its regularisation on val", fix='have "val" in config.data.judge')
    if probe.name == "linear_probe" and not (probe.strengths and min(probe.strengths) >= 0):
        raise UserError("probe.strengths", got=tuple(probe.strengths), expected="one or more penalties of at least 0")
    return records.check_judged(config, parts)


def _run(config: ConfigDict, parts: Parts, judged: list[Split], workdir: Path, began: float) -> Path:
    features = _cached_features(config, parts, [parts.split, *judged])
    scores, chosen = _PROBES[config.probe.name](config, parts, judged, features)
    predictions, metrics = records.judge(scores)
    timings = {"total_s": time.perf_counter() - began}
    record = records.run_record(config, parts, timings=timings, metrics={"last": metrics})
    if jax.process_index() == 0:
        ledger.write_run(workdir, record | {"probe": chosen}, predictions=predictions)
        logging.info("%s", records.outcome(record))
    return workdir


def _linear_probe(
    config: ConfigDict, parts: Parts, judged: list[Split], features: Mapping[Split, np.ndarray]
) -> tuple[dict[Split, np.ndarray], dict[str, Any]]:
    """The strength with the highest primary metric on val; of equals, the strongest penalty."""
    multi_label = parts.split.card.task == "multi_label"
    strengths = tuple(sorted(config.probe.strengths, reverse=True))
    labels, mask = parts.split.all_labels()
    fitted = probes.fit_linear_probes(features[parts.split], labels, mask, multi_label=multi_label, strengths=strengths)
    val = next(s for s in judged if s.name == "val")
    val_labels, val_mask = val.all_labels()
    metric = METRICS.get(config.primary_metric)
    results = [metric(p.scores(features[val]), val_labels, val_mask) for p in fitted]
    on_val = [r.value for r in results]
    if not np.isfinite(on_val).any():
        raise UserError(
            f"{config.primary_metric} is undefined on val, where the probe chooses its penalty ({results[0].reason})",
            fix="build the dataset with a larger val split",
        )
    best = int(np.nanargmax(on_val))
    chosen = {"strength": strengths[best], "on_val": dict(zip(map(str, strengths), on_val, strict=True))}
    return {split: fitted[best].scores(features[split]) for split in judged}, chosen


def _knn(
    config: ConfigDict, parts: Parts, judged: list[Split], features: Mapping[Split, np.ndarray]
) -> tuple[dict[Split, np.ndarray], dict[str, Any]]:
    labels, mask = parts.split.all_labels()
    known = mask.min(axis=1) > 0
    settings = {"neighbours": config.probe.neighbours, "temperature": config.probe.temperature}
    scores = {
        split: probes.knn_scores(features[parts.split][known], labels[known], features[split], **settings)
        for split in judged
    }
    return scores, settings


_PROBES = {"linear_probe": _linear_probe, "knn": _knn}


def _variables(config: ConfigDict, parts: Parts) -> tuple[PyTree, PyTree]:
    """Returns (params, batch_stats) of the backbone to judge."""
    model_input = parts.model_input
    image = jnp.zeros((1, *model_input.size, model_input.channels), jnp.float32)
    key = jax.random.split(rng.stream(config.seed, "init"))[0]  # the backbone that training from scratch begins with
    variables = jax.jit(parts.backbone.init, static_argnames="train", compiler_options=rng.RUN_ONCE)(
        key, image, train=False
    )
    params, stats = {"backbone": variables["params"]}, {"batch_stats": {"backbone": variables.get("batch_stats", {})}}
    if parts.start is not None:
        params, stats = starts.fill(parts.start, params, stats, heads="")
    params, stats = sharding.replicate((params["backbone"], stats["batch_stats"]["backbone"]), parts.mesh)
    if config.probe.batch_stats == "reestimated":
        stats = evaluators.reestimate_batch_stats(
            parts.backbone,
            params,
            stats,
            parts.split,
            adapter=parts.adapter,
            batch_size=config.eval_batch_size,
            mesh=parts.mesh,
        )
    return params, stats


def _cached_features(config: ConfigDict, parts: Parts, splits: list[Split]) -> dict[Split, Float[np.ndarray, "n d"]]:
    """Returns the features of each split, from `config.probe.cache_dir` where an earlier probe has left them."""
    what = {
        "start": parts.start.id if parts.start else f"random, seed {config.seed}",
        "backbone": plain(config.backbone),
        "batch_stats": config.probe.batch_stats,
        "dataset": parts.split.card.fingerprint,
        "adapter": parts.adapter.to_json(),
        "code": ledger.code_version()["source"],
    }
    variables = None
    features = {}
    for split in splits:
        key = hashlib.sha256(canonical_json(what | {"split": split.name}).encode()).hexdigest()[:24]
        path = Path(config.probe.cache_dir) / f"{key}.npy" if config.probe.cache_dir else None
        if path is not None and path.is_file():
            features[split] = np.load(path, allow_pickle=False)
            continue
        variables = variables or _variables(config, parts)
        features[split] = evaluators.extract_features(
            parts.backbone,
            *variables,
            split,
            adapter=parts.adapter,
            batch_size=config.eval_batch_size,
            mesh=parts.mesh,
        )
        if path is not None and jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, features[split], allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    return features
