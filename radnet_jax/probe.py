"""Judges a frozen backbone on a task: linear probe or nearest neighbours, from one cached pass of features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import os
from pathlib import Path
import time
from typing import Any
import uuid

from absl import logging
import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import identity_audit, records, rng, sharding, starts
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import evaluators, ledger, probes, ridge
from radnet_jax.evaluation.canonical import canonical_json
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.parts import Parts, assemble, check_workdir, lock, plain

BATCH_STATS = ("start", "initial", "reestimated")
PROBE_FILE = "probe.npz"  # of a linear probe: what it has learned
CLASSIFIERS = ("logistic", "ridge", "logistic_at_ridge")


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
        shared = identity_audit.run(config, parts, workdir)
        return _run(config, parts, judged, workdir, began, shared)


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
    records.check_classes(config, parts)
    identity_audit.check(config)
    if probe.name == "linear_probe" and "val" not in config.data.judge:
        raise UserError("the linear probe chooses its regularisation on val", fix='have "val" in config.data.judge')
    if probe.classifier not in CLASSIFIERS:
        raise UserError(
            f"unknown probe.classifier {probe.classifier!r}{nearest(probe.classifier, CLASSIFIERS)}",
            expected=", ".join(CLASSIFIERS),
        )
    if probe.name == "knn":
        known = int((parts.split.all_labels()[1].min(axis=1) > 0).sum())
        if probe.neighbours > known:
            told = f"at most {known}, the fully labelled training records"
            raise UserError("probe.neighbours", got=probe.neighbours, expected=told)
    if probe.name == "linear_probe" and not (probe.strengths and min(probe.strengths) >= 0):
        raise UserError("probe.strengths", got=tuple(probe.strengths), expected="one or more penalties of at least 0")
    return records.check_judged(config, parts)


def _run(
    config: ConfigDict,
    parts: Parts,
    judged: list[Split],
    workdir: Path,
    began: float,
    shared: Mapping[str, Any] | None,
) -> Path:
    features = _cached_features(config, parts, [parts.split, *judged])
    scores, chosen, linear = _PROBES[config.probe.name](config, parts, judged, features)
    predictions, metrics = records.judge(config, scores)
    timings = {"total_s": time.perf_counter() - began}
    record = records.run_record(config, parts, timings=timings, metrics={"last": metrics})
    if jax.process_index() == 0:
        if linear is not None:
            linear.save(workdir / PROBE_FILE)
        ledger.write_run(workdir, record | {"probe": chosen, "audit": shared}, predictions=predictions)
        logging.info("%s", records.outcome(record))
    return workdir


def _linear_probe(
    config: ConfigDict, parts: Parts, judged: list[Split], features: Mapping[Split, np.ndarray]
) -> tuple[dict[Split, np.ndarray], dict[str, Any], probes.Linear | None]:
    """The strength with the highest primary metric on val; of equals, the strongest penalty.

    `probe.classifier`: "logistic" regression fitted at each of `probe.strengths`; "ridge" regression over its whole
    path (19 strengths, 1e-6 to 1e3, from one decomposition; its probabilities are not calibrated); or
    "logistic_at_ridge", logistic regression fitted once, as strongly penalised as the best ridge regression.
    """
    task, classifier = parts.split.card.task, config.probe.classifier
    labels, mask = parts.split.all_labels()
    train = features[parts.split]
    val = next(s for s in judged if s.name == "val")

    def logistic(strengths: Sequence[float]) -> list[probes.LinearProbe]:
        return probes.fit_linear_probes(
            train, labels, mask, multi_label=task == "multi_label", strengths=tuple(strengths)
        )

    if classifier == "logistic":
        strengths: tuple[float, ...] = tuple(sorted(config.probe.strengths, reverse=True))
        fitted = logistic(strengths)
        best, on_val = _best(config, val, strengths, (p.scores(features[val]) for p in fitted))
        scores = {split: fitted[best].scores(features[split]) for split in judged}
        return scores, _chosen(strengths, best, on_val), fitted[best].folded()
    strengths = ridge.STRENGTHS[::-1]
    path = ridge.fit_ridge_path(train, labels, mask)

    def ridges(split: Split, strengths: Sequence[float]) -> Iterator[np.ndarray]:
        for scores in path.scores(features[split], strengths):
            yield ridge.squashed(scores, multi_label=task == "multi_label")

    best, on_val = _best(config, val, strengths, ridges(val, strengths))
    chosen = _chosen(strengths, best, on_val)
    if classifier == "ridge":
        scores = {s: next(ridges(s, strengths[best : best + 1])) for s in judged}
        return scores, chosen, path.folded(strengths[best], multi_label=task == "multi_label")
    strength = ridge.logistic_strength(strengths[best], labels, mask, multi_label=task == "multi_label")
    (only,) = logistic([strength])
    scores = {split: only.scores(features[split]) for split in judged}
    return scores, chosen | {"logistic_strength": strength}, only.folded()


def _best(
    config: ConfigDict, val: Split, strengths: Sequence[float], scores: Iterable[np.ndarray]
) -> tuple[int, list[float]]:
    """Returns the number of the first strength with the highest primary metric on val, and that of each."""
    metric, (labels, mask) = METRICS.get(config.primary_metric), val.all_labels()
    results = [metric(s, labels, mask) for s in scores]
    on_val = [r.value for r in results]
    if not np.isfinite(on_val).any():
        raise UserError(
            f"{config.primary_metric} is undefined on val, where the probe chooses its penalty ({results[0].reason})",
            fix="build the dataset with a larger val split",
        )
    best = int(np.nanargmax(on_val))
    if len(strengths) > 1 and best in (0, len(strengths) - 1):
        logging.info("probe: the best strength %g is an end of the path", strengths[best])
    return best, on_val


def _chosen(strengths: Sequence[float], best: int, on_val: list[float]) -> dict[str, Any]:
    return {"strength": strengths[best], "on_val": dict(zip(map(str, strengths), on_val, strict=True))}


def _knn(
    config: ConfigDict, parts: Parts, judged: list[Split], features: Mapping[Split, np.ndarray]
) -> tuple[dict[Split, np.ndarray], dict[str, Any], probes.Linear | None]:
    labels, mask = parts.split.all_labels()
    known = mask.min(axis=1) > 0
    settings = {"neighbours": config.probe.neighbours, "temperature": config.probe.temperature}
    scores = {
        split: probes.knn_scores(features[parts.split][known], labels[known], features[split], **settings)
        for split in judged
    }
    return scores, settings, None


_PROBES = {"linear_probe": _linear_probe, "knn": _knn}


def variables_of(config: ConfigDict, parts: Parts) -> tuple[PyTree, PyTree]:
    """Returns (params, batch_stats) of the backbone that a probe judges, with BatchNorm statistics of its start."""
    model_input = parts.model_input
    image = jnp.zeros((1, *model_input.size, model_input.channels), jnp.float32)
    key = jax.random.split(rng.stream(config.seed, "init"))[0]  # the backbone that training from scratch begins with
    variables = jax.jit(parts.backbone.init, static_argnames="train", compiler_options=rng.RUN_ONCE)(
        key, image, train=False
    )
    params, stats = {"backbone": variables["params"]}, {"batch_stats": {"backbone": variables.get("batch_stats", {})}}
    if parts.start is not None:
        params, stats = starts.fill(parts.start, params, stats, heads="")
    return sharding.replicate((params["backbone"], stats["batch_stats"]["backbone"]), parts.mesh)


def _variables(config: ConfigDict, parts: Parts) -> tuple[PyTree, PyTree]:
    params, stats = variables_of(config, parts)
    if config.probe.batch_stats == "reestimated":
        stats = evaluators.reestimate_batch_stats(
            parts.backbone,
            params,
            stats,
            parts.split.whole(),  # labels are scarce in a subset, not images
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
    for wanted in splits:
        # Features do not depend on labels or on the subset: one pass over the whole split serves all label budgets.
        split = dataclasses.replace(wanted.whole() if config.probe.cache_dir else wanted, judged=())
        key = hashlib.sha256(canonical_json(what | {"split": split.name}).encode()).hexdigest()[:24]
        path = Path(config.probe.cache_dir) / f"{key}.npy" if config.probe.cache_dir else None
        if path is not None and path.is_file():
            features[wanted] = _rows(np.load(path, allow_pickle=False, mmap_mode="r"), split, wanted)
            continue
        variables = variables or _variables(config, parts)
        found = evaluators.extract_features(
            parts.backbone,
            *variables,
            split,
            adapter=parts.adapter,
            batch_size=config.eval_batch_size,
            mesh=parts.mesh,
        )
        if path is not None and jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # machines can have processes of one number
            with temporary.open("wb") as file:
                np.save(file, found, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        features[wanted] = _rows(found, split, wanted)
    return features


def _rows(features: np.ndarray, split: Split, wanted: Split) -> Float[np.ndarray, "n d"]:
    """Returns those of a split's features that are of the subset that is wanted."""
    return np.asarray(features if wanted.rows is None or split.part else features[wanted.rows])
