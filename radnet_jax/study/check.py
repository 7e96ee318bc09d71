"""The checks before the first run of a study: what it asks for, what is built, and what its folder holds already."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any
import uuid

import jax
from jax.sharding import Mesh

from radnet_jax import external, records
from radnet_jax.data.card import CARD_FILE, read_card
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger, segmentation
from radnet_jax.evaluation.canonical import canonical_json
from radnet_jax.parts import assemble, check_names, plain
from radnet_jax.preprocessing import ModelInput
from radnet_jax.starts import Start
from radnet_jax.study.expand import RUNNERS, Run, Validation
from radnet_jax.study.spec import Study, known

STUDY_FILE = "study.json"


def check_study(study: Study, jobs: Sequence[Run], mesh: Mesh) -> None:
    """Makes every check that needs no dataset: names, arguments, declared crossings, imported weights, built datasets.

    Raises:
      UserError: the first thing that a user can mend.
    """
    for job in _one_of_each(jobs):
        check_names(job.config, mesh)
        known(f"config.run of {job.name!r}", job.config.run, RUNNERS)
    _check_weights(study)
    _check_built(study)
    for job in _one_of_each(jobs):
        if job.config.tags.kind == "pretrain":
            continue
        task, start = job.config.tags.task, job.config.tags.start
        see, own = study.modality(start, task), study.tasks[task].input.modality
        if see != own and job.config.adapter is None:
            raise UserError(
                f"preprocessing contract: undeclared crossing, task {task!r} ({own}) -> start {start!r} ({see})",
                fix=f"declare it: tasks.{task}.adapters.{see}=dict(windows=..., channels=...)",
            )


def _one_of_each(jobs: Sequence[Run]) -> list[Run]:
    """One of the jobs that differ in nothing but their seed."""
    return list({re.sub(r" ?seed \d+$", "", job.name): job for job in reversed(jobs)}.values())[::-1]


def _check_weights(study: Study) -> None:
    for name, start in study.starts.items():
        if start.weights and study.find_weights(name) is None:
            raise UserError(
                f"no imported weights {start.weights!r} for start {name!r}",
                expected=f"a folder {study.weights(name)}",
                fix=start.needs or "name the folder with --config.weights_root, or import them: docs/weights.md",
            )


def _check_built(study: Study) -> None:
    for name, dataset in study.datasets.items():
        folder = Path(study.config.data_root) / dataset.built
        if dataset.built and not (folder / CARD_FILE).is_file():
            options = {k: v for k, v in plain(dataset.options).items() if v not in ("", None, False)}
            words = " ".join(f"--{k}" if v is True else f"--{k}={_word(v)}" for k, v in options.items())
            command = f"python -m data_prep.build --dataset={dataset.dataset} --source=RAW --out={folder} {words}"
            raise UserError(
                f"dataset {name!r} of the study is not built: no {CARD_FILE} in {folder}",
                fix=f"build it: {command}",
            )


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def check_jobs(study: Study, jobs: Sequence[Run]) -> None:
    """Makes every check of the runs whose datasets are there, with what their pretraining will be.

    Raises:
      UserError: the first thing that a user can mend.
    """
    for job in _one_of_each(jobs):
        planned = _planned(study, job)
        parts = assemble(job.config, planned=planned)
        RUNNERS[job.config.run].check(job.config, parts)


def check_validations(jobs: Sequence[Validation]) -> None:
    """Refuses label mappings and pixels that do not fit, before anything is trained."""
    for job in {(job.of.config.tags.task, job.site): job for job in jobs}.values():
        config = job.of.config
        own, other = read_card(config.data.dir), read_card(job.dataset)
        if "masks" in config:
            external.reading(job.labels, other, own, segmentation.Rules(**plain(config.masks)))
        else:
            external.check_labels(job.labels, other, own.labels, own.task)
        if own.stored.modality != other.stored.modality:
            raise UserError(
                f"external site {job.site!r} has other images", got=other.stored.modality, expected=own.stored.modality
            )


def check_finished(jobs: Sequence[Run]) -> list[Run]:
    """Refuses finished runs of another config, dataset or start; returns those whose start is not there to compare."""
    left = []
    for job in jobs:
        if job.is_finished():
            if job.pretraining and not ledger.is_finished(job.config.init_from):
                left.append(job)
            else:
                records.is_finished(job.config, assemble(job.config), job.place)
    return left


def _planned(study: Study, job: Run) -> Start | None:
    """What a run's start will be, where its pretraining is still to come."""
    if not job.pretraining:
        return None
    backbone = plain(study.pretraining[job.pretraining].config.backbone)
    return Start("planned", backbone, model_input_of(study, job.pretraining), None)


def model_input_of(study: Study, pretraining: str) -> ModelInput:
    """What the backbone of a pretraining sees: what the first of its chain, or weights before it, are made for."""
    first = study.pretraining[study.first(pretraining)]
    if not first.start:
        return ModelInput.from_json(plain(first.config.input))
    weights = study.find_weights(first.start)
    assert weights is not None  # checked before
    return weights.model_input


def check_folder(study: Study, jobs: Sequence[Run], workdir: Path) -> None:
    """Refuses the folder of another study: one of another name, or with another config for one of the runs.

    A study may grow: runs that are new are noted in `study.json`.

    Raises:
      UserError: the first difference.
    """
    path = workdir / STUDY_FILE
    configs = {job.id: _digest(records.identity(plain(job.config))) for job in jobs}
    if path.is_file():
        before = json.loads(path.read_text())
        differing = [id for id, digest in configs.items() if before["configs"].get(id, digest) != digest]
        if before["name"] != study.config.name or differing:
            what = f"a run {differing[0]!r} of another config" if differing else f"the study {before['name']!r}"
            raise UserError(
                f"workdir {workdir} is the folder of another study: it holds {what}",
                got=f"{len(differing)} of {len(configs)} run(s) that differ" if differing else study.config.name,
                fix="use a new --workdir, or go back to the old settings",
            )
        configs = {**before["configs"], **configs}
        if configs == before["configs"]:
            return
    if jax.process_index():
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.write_text(json.dumps({"name": study.config.name, "configs": configs}, indent=1))
    os.replace(temporary, path)


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
