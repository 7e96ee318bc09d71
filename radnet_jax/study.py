"""A study: datasets, pretrainings, and starts x tasks x protocols x seeds, run to a report; resumable.

One process runs all of it, so that compiled functions, the compilation cache and features are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import gc
from pathlib import Path
import time
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from data_prep.build import build
from data_prep.phantom import write_ct, write_leaves
from radnet_jax import examples, probe, programs, records, sharding, train
from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import ledger, report
from radnet_jax.evaluation.compare import compare
from radnet_jax.parts import assemble, check_names, check_workdir, lock, plain
from radnet_jax.preprocessing import ModelInput
from radnet_jax.registry import check_arguments
from radnet_jax.starts import Start

_CONSOLE = Console(stderr=True, highlight=False)
_GENERATORS: dict[str, Callable[..., Path]] = {"ct": write_ct, "leaves": write_leaves}
SCRATCH = ""  # a start without a pretraining


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study: a resolved config and the folder it goes to."""

    name: str
    config: ConfigDict
    workdir: Path

    def run(self) -> None:
        (probe.run if self.config.run == "probe" else train.run)(self.config, self.workdir)


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Builds what is missing, runs what is not finished, and writes `report/` in the workdir.

    Returns:
      The path of the report.
    """
    began = time.perf_counter()
    _check_study(config)
    workdir = check_workdir(workdir, need_bytes=2**28)
    with lock(workdir):
        for name, spec in config.datasets.items():
            _build(name, spec, config.data_root, workdir)
        _say(began, f"{len(config.datasets)} dataset(s) ready")
        jobs = [*pretraining_jobs(config, workdir), *downstream_jobs(config, workdir)]
        for job in jobs:
            _check_job(config, job)
        for number, job in enumerate(jobs, 1):
            finished = ledger.is_finished(job.workdir)
            job.run()
            gc.collect()  # a finished run's arrays are freed before the next allocates its own
            programs.let_go()
            done = f"{job.name}: finished before, skipped"
            outcome = done if finished else records.outcome(ledger.read_run(job.workdir).record)
            _say(began, f"[{number}/{len(jobs)}] {outcome}")
        if jax.process_index() != 0:
            return workdir / "report" / "index.html"
        path = write_report(config, workdir, jobs)
    _say(began, f"report: {path}")
    return path


def write_report(config: ConfigDict, workdir: Path, jobs: Sequence[Job]) -> Path:
    """Compares the runs of the jobs and writes the report; returns its path. Other runs in the workdir are named."""
    folders = {job.workdir for job in jobs}
    found = ledger.read_runs(workdir / "runs")
    runs = [run for run in found if run.folder in folders]
    others = len(found) - len(runs)
    warnings = (
        [f"{others} other finished run(s) in this folder are not of this study and were left out."] if others else []
    )
    warnings = [*config.notes, *warnings]
    comparisons = compare([r for r in runs if r.judged], **plain(config.compare))
    shown = examples.write(config, workdir) if config.report.images else []
    return report.write_report(
        workdir / "report",
        title=config.name,
        comparisons=comparisons,
        runs=runs,
        examples=shown,
        pixels=functools.partial(examples.of_cases, config, workdir) if config.report.images else None,
        warnings=warnings,
    )


def _say(began: float, text: str) -> None:
    if jax.process_index() == 0:
        seconds = int(time.perf_counter() - began)
        _CONSOLE.print(f"{seconds // 60}:{seconds % 60:02d}  {text}", soft_wrap=True)


def dataset_dir(workdir: Path, name: str) -> Path:
    return workdir / "datasets" / name


def pretraining_dir(workdir: Path, name: str, seed: int | None = None) -> Path:
    """The folder of a pretraining, or of one of several that differ in their seed."""
    folder = workdir / "runs" / "pretraining" / name
    return folder if seed is None else folder.with_name(f"{name}-seed-{seed}")


def _build(name: str, spec: ConfigDict, data_root: str, workdir: Path) -> DatasetCard:
    """Builds a dataset of the study; a finished build is opened as it is."""
    if spec.generate is not None:
        arguments = plain(spec.generate)
        kind = arguments.pop("kind")
        _known("kind of generated data", kind, _GENERATORS)
        source = _GENERATORS[kind](workdir / "generated" / name, **arguments)
    else:
        source = Path(data_root) / spec.source
    log = functools.partial(_CONSOLE.print, soft_wrap=True)
    return build(spec.dataset, source, dataset_dir(workdir, name), log=log, **plain(spec.options))


def pretraining_jobs(config: ConfigDict, workdir: Path) -> Iterator[Job]:
    """Yields each pretraining, once or, with `config.pretraining_seeds`, with each seed of the study."""
    for name, spec in config.pretraining.items():
        for seed in config.seeds if config.pretraining_seeds else (None,):
            label = f"pretrain {name}" + ("" if seed is None else f" seed {seed}")
            resolved = _derived(
                spec.config,
                name=label,
                seed=spec.config.seed if seed is None else seed,
                data={"dir": str(dataset_dir(workdir, spec.dataset))},
                tags={"kind": "pretrain", "start": name},
            )
            yield Job(label, resolved, pretraining_dir(workdir, name, seed))


def downstream_jobs(config: ConfigDict, workdir: Path) -> Iterator[Job]:
    """Yields starts x tasks x protocols x seeds, without seeds that vary nothing.

    A probe is convex, so on one checkpoint its seed varies nothing: it runs once. A random start's probe varies with
    its initialisation, and is run with its initial and with re-estimated BatchNorm statistics, which differ much.
    With `config.pretraining_seeds` each seed has a checkpoint of its own.
    """
    for task in config.tasks:
        for protocol, spec in config.protocols.items():
            for start in config.starts:
                random = pretraining_of(config, start, task) == SCRATCH
                is_probe = spec.config.run == "probe"
                varies = random or not is_probe or config.pretraining_seeds
                variants = ("initial", "reestimated") if random and is_probe else ("",)
                for variant in variants:
                    for seed in config.seeds if varies else config.seeds[:1]:
                        yield _downstream_job(config, workdir, task, protocol, start, variant, seed, varies)


def _downstream_job(
    config: ConfigDict,
    workdir: Path,
    task: str,
    protocol: str,
    start: str,
    variant: str,
    seed: int,
    varies: bool,
) -> Job:
    task_spec, template = config.tasks[task], config.protocols[protocol].config
    pretraining = pretraining_of(config, start, task)
    own = seed if config.pretraining_seeds else None
    name = " ".join(filter(None, (task, protocol, start, f"bn_{variant}" if variant else "", f"seed {seed}")))
    changes: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "primary_metric": task_spec.primary_metric,
        "data": {"dir": str(dataset_dir(workdir, task_spec.dataset))},
        "tags": {
            "task": task,
            "protocol": protocol,
            "start": start,
            "variant": f"bn_{variant}" if variant else "",
            "seed_varies": varies,
        },
        "init_from": str(pretraining_dir(workdir, pretraining, own)) if pretraining else "",
        "input": None if pretraining else plain(task_spec.input),
        "adapter": _declared_adapter(config, task, start),
    }
    if template.run == "probe":
        changes["probe"] = {"cache_dir": str(workdir / "features")} | ({"batch_stats": variant} if variant else {})
    if template.run == "train":
        changes["augment"] = _augmentation(config, task, start)
    return Job(name, _derived(template, **changes), workdir / "runs" / name.replace(" ", "-"))


def pretraining_of(config: ConfigDict, start: str, task: str) -> str:
    """Returns the pretraining of a start for a task: one for all tasks, or by task where a start is a method."""
    pretraining = config.starts[start].pretraining
    return pretraining if isinstance(pretraining, str) else pretraining[task]


def _start_modality(config: ConfigDict, task: str, start: str) -> str:
    pretraining = pretraining_of(config, start, task)
    model_input = config.pretraining[pretraining].config.input if pretraining else config.tasks[task].input
    return model_input.modality


def _declared_adapter(config: ConfigDict, task: str, start: str) -> dict[str, Any] | None:
    """Returns the crossing that the task declares for starts of this modality, or None."""
    declared = config.tasks[task].adapters.get(_start_modality(config, task, start))
    return plain(declared) if declared is not None else None


def _augmentation(config: ConfigDict, task: str, start: str) -> dict[str, Any]:
    del start  # a fair comparison augments every start alike
    return plain(config.tasks[task].augment)


def _derived(template: ConfigDict, **changes: Any) -> ConfigDict:
    """Returns a locked copy of a template with sections updated field by field."""
    out = template.to_dict()
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(out.get(key), dict) and key in ("data", "tags", "probe")
        out[key] = {**out[key], **value} if merge else value
    return ConfigDict(out).lock()


def _check_study(config: ConfigDict) -> None:
    """Checks every name that a study uses before anything is built."""
    mesh = sharding.make_mesh()
    for name, spec in config.pretraining.items():
        _known(f"dataset of pretraining {name!r}", spec.dataset, config.datasets)
        check_names(spec.config, mesh)
    for name, spec in config.starts.items():
        if not isinstance(spec.pretraining, str) and set(spec.pretraining) != set(config.tasks):
            raise UserError(
                f"start {name!r} has pretrainings by task",
                got=", ".join(spec.pretraining),
                expected=f"one for each of {', '.join(config.tasks)}",
            )
        for task in config.tasks:
            if (pretraining := pretraining_of(config, name, task)) != SCRATCH:
                _known(f"pretraining of start {name!r}", pretraining, config.pretraining)
    for name, spec in config.tasks.items():
        _known(f"dataset of task {name!r}", spec.dataset, config.datasets)
    for job in downstream_jobs(config, Path()):
        check_names(job.config, mesh)
    check_arguments("config.compare", compare, config.compare.to_dict(), offered=["runs"])
    for name, spec in config.datasets.items():
        if spec.generate is None and not config.data_root:
            raise UserError(
                f"config.data_root is missing, and dataset {name!r} is built from {spec.source!r} below it",
                fix="--config.data_root=DIR",
            )
    if len(set(config.seeds)) != len(config.seeds) or not config.seeds:
        raise UserError("config.seeds must be different numbers", got=tuple(config.seeds))


def _known(what: str, name: str, valid: ConfigDict | dict[str, Any]) -> None:
    if name not in valid:
        raise UserError(f"unknown {what}: {name!r}{nearest(name, valid)}", expected=f"one of {', '.join(valid)}")


def _check_job(config: ConfigDict, job: Job) -> None:
    """Makes every check of a run before the first one starts, with what its pretraining will be where it is to come."""
    planned = None
    if job.config.init_from:
        name = pretraining_of(config, job.config.tags.start, job.config.tags.task)
        pretraining = config.pretraining[name].config
        planned = Start("planned", plain(pretraining.backbone), ModelInput.from_json(plain(pretraining.input)), None)
    runner = probe if job.config.run == "probe" else train
    runner.check(job.config, assemble(job.config, planned=planned))
