"""From a study to its jobs: what to generate and build, what to pretrain, and starts x tasks x protocols x seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import gc
import os
from pathlib import Path
import re
from typing import Any
import uuid

from ml_collections import ConfigDict

from data_prep.build import build
from data_prep.phantom import write_ct, write_leaves
from radnet_jax import external, probe, programs, records, sharding, train
from radnet_jax.data.card import CARD_FILE
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.parts import plain
from radnet_jax.study import spec
from radnet_jax.study.spec import Study

GENERATORS: dict[str, Callable[..., Path]] = {"ct": write_ct, "leaves": write_leaves}
RAW = "raw"  # folder of generated files, in the folder of their dataset
RUNNERS: dict[str, Any] = {"train": train, "probe": probe}  # by config.run: modules with `check` and `run`


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study: a resolved config and the folder it goes to."""

    name: str
    config: ConfigDict
    place: Path
    needs: tuple[str, ...] = ()
    pretraining: str = ""  # of the study, that it starts from
    group: str = ""  # runs that take equally long: a pretraining, or a task, protocol and fraction

    @property
    def id(self) -> str:
        return _id(self.name)

    def is_finished(self) -> bool:
        return ledger.is_finished(self.place)

    def run(self, folder: Path) -> str:
        RUNNERS[self.config.run].run(self.config, folder)
        gc.collect()  # a finished run's arrays are freed before the next allocates its own
        programs.let_go()
        return records.outcome(ledger.read_run(folder).record)


@dataclasses.dataclass(frozen=True)
class Validation:
    """A fine-tuning or linear probe of the study, judged on another site's dataset."""

    of: Run
    site: str
    dataset: Path
    labels: dict[str, str]
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.of.name} at {self.site}"

    @property
    def id(self) -> str:
        return _id(self.name)

    @property
    def place(self) -> Path:
        return self.of.place.with_name(self.id)

    @property
    def group(self) -> str:
        return f"{self.of.group} at {self.site}"

    def is_finished(self) -> bool:
        return ledger.is_finished(self.place)

    def run(self, folder: Path) -> str:
        mesh, size = sharding.make_mesh(), self.of.config.eval_batch_size
        options = dict(site=self.site, labels=self.labels, mesh=mesh, batch_size=size, start=self.of.config.init_from)
        external.validate(self.of.place, self.dataset, folder, **options)
        return records.outcome(ledger.read_run(folder).record)


@dataclasses.dataclass(frozen=True)
class Generation:
    """Generated raw files of a dataset."""

    dataset: str
    arguments: dict[str, Any]
    place: Path
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"generate-{self.dataset}"

    @property
    def name(self) -> str:
        return f"generate {self.dataset}"

    def is_finished(self) -> bool:
        return (self.place / RAW).is_dir()

    def run(self, folder: Path) -> str:
        arguments = dict(self.arguments)
        GENERATORS[arguments.pop("kind")](folder / RAW, **arguments)  # masks go beside it
        return f"{self.name}: done"


@dataclasses.dataclass(frozen=True)
class Build:
    """A dataset of the study, built from raw files."""

    dataset: str
    source: Path
    builder: str
    options: dict[str, Any]
    place: Path
    log: Callable[[str], None]
    needs: tuple[str, ...] = ()
    mix: Mapping[Path, float] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"build-{self.dataset}"

    @property
    def name(self) -> str:
        return f"build {self.dataset}"

    def is_finished(self) -> bool:
        return (self.place / CARD_FILE).is_file()

    def run(self, folder: Path) -> str:
        if self.mix:
            _write_mixture(self.source, self.mix)
        card = build(self.builder, self.source, folder, log=self.log, **self.options)
        return f"{self.name}: {sum(card.splits.values())} images"


def _write_mixture(table: Path, mix: Mapping[Path, float]) -> None:
    """Writes the table of a mixture, whole; folders are relative to it, so that a study can be moved."""
    table.parent.mkdir(exist_ok=True)
    temporary = table.with_name(f".{uuid.uuid4().hex}")
    lines = (f"{os.path.relpath(folder, table.parent)},{weight:g},{folder.name}" for folder, weight in mix.items())
    temporary.write_text("\n".join(["dataset,weight,name", *lines]) + "\n")
    os.replace(temporary, table)


def validation_jobs(study: Study, workdir: Path, runs: Iterable[Run]) -> Iterator[Validation]:
    """Yields the fine-tunings and linear probes of tasks that are judged at other sites too."""
    for run in runs:
        task = study.tasks.get(run.config.tags.task)
        is_linear = run.config.tags.kind == "linear_probe" and run.config.init_from
        if task is None or not (run.config.run == "train" or is_linear):
            continue
        for site, where in task.external.items():
            labels = {str(their): str(our) for their, our in where["labels"]}
            needs = (run.id, *filter(None, [_build_id(study, where["dataset"])]))
            yield Validation(run, site, dataset_dir(study, workdir, where["dataset"]), labels, needs)


def dataset_dir(study: Study, workdir: Path, name: str) -> Path:
    """The folder of a built dataset."""
    built = study.datasets[name].built
    return Path(study.config.data_root) / built if built else workdir / "datasets" / name


def dataset_jobs(study: Study, workdir: Path, log: Callable[[str], None]) -> Iterator[Generation | Build]:
    """Yields what is to be generated and built."""
    for name, dataset in study.datasets.items():
        if dataset.built:
            continue
        source = Path(study.config.data_root) / dataset.source
        needs: tuple[str, ...] = ()
        if dataset.generate is not None:
            arguments = plain(dataset.generate)
            spec.known("kind of generated data", arguments.get("kind", ""), GENERATORS)
            generation = Generation(name, arguments, workdir / "generated" / name)
            yield generation
            source, needs = generation.place / RAW, (generation.id,)
        mix = {dataset_dir(study, workdir, member): weight for member, weight in dataset.mix.items()}
        if mix:
            source = workdir / "mixtures" / f"{name}.csv"
            needs = tuple(filter(None, (_build_id(study, member) for member in dataset.mix)))
        options, place = plain(dataset.options), workdir / "datasets" / name
        yield Build(name, source, dataset.dataset, options, place, log, needs, mix)


def pretraining_dir(workdir: Path, name: str, seed: int | None = None) -> Path:
    """The folder of a pretraining, or of one of several that differ in their seed."""
    folder = workdir / "runs" / "pretraining" / name
    return folder if seed is None else folder.with_name(f"{name}-seed-{seed}")


def pretraining_jobs(study: Study, workdir: Path) -> Iterator[Run]:
    """Yields each pretraining, once or, with `config.pretraining_seeds`, with each seed of the study."""
    for name, pretraining in study.pretraining.items():
        for seed in _all_seeds(study) if study.config.pretraining_seeds else (None,):
            changes: dict[str, Any] = {}
            needs, before = [_build_id(study, pretraining.dataset)], ""
            if pretraining.start:
                before = study.pretraining_of(pretraining.start, "")
                changes["init_from"] = str(_start_dir(study, workdir, pretraining.start, before, seed))
                needs += [_pretraining_id(before, seed)] if before else []
                if imported := study.imported(pretraining.start, ""):
                    changes["backbone"] = study.backbone(pretraining.config, imported)
            resolved = derived(
                pretraining.config,
                name=_pretraining_name(name, seed),
                seed=pretraining.config.seed if seed is None else seed,
                data={"dir": str(dataset_dir(study, workdir, pretraining.dataset))},
                tags={"kind": "pretrain", "start": name},
                **changes,
            )
            place = pretraining_dir(workdir, name, seed)
            label = _pretraining_name(name, seed)
            yield Run(label, resolved, place, tuple(filter(None, needs)), before, f"pretrain {name}")


def downstream_jobs(study: Study, workdir: Path) -> Iterator[Run]:
    """Yields starts x tasks x protocols x fractions x seeds of each block, without seeds that vary nothing.

    A probe is convex, so on one checkpoint its seed varies nothing: it runs once. A random start's probe varies with
    its initialisation, and is run with its initial and with re-estimated BatchNorm statistics, which differ much.
    With `config.pretraining_seeds` each seed has a checkpoint of its own. A run that several blocks have in common is
    one run.
    """
    seen = set()
    for block in study.blocks.values():
        for run in _block_jobs(study, workdir, block):
            if run.name not in seen:
                seen.add(run.name)
                yield run


def _block_jobs(study: Study, workdir: Path, block: spec.Block) -> Iterator[Run]:
    for task in block.tasks or study.tasks:
        for protocol in block.protocols or study.protocols:
            for fraction in block.fractions:
                for start in block.starts or study.starts:
                    random = study.is_random(start, task)
                    is_probe = study.template(task, protocol, fraction).run == "probe"
                    varies = random or not is_probe or (study.config.pretraining_seeds and not _imported(study, start))
                    variants = ("initial", "reestimated") if random and is_probe else ("",)
                    seeds = tuple(block.seeds) or study.seeds
                    for variant in variants:
                        for seed in seeds if varies else seeds[:1]:
                            yield _downstream_job(
                                study, workdir, task, protocol, fraction, start, variant, seed, varies
                            )


def _imported(study: Study, start: str) -> bool:
    return bool(study.starts[start].weights)


def _downstream_job(
    study: Study,
    workdir: Path,
    task: str,
    protocol: str,
    fraction: float,
    start: str,
    variant: str,
    seed: int,
    varies: bool,
) -> Run:
    spec_, template = study.tasks[task], study.template(task, protocol, fraction)
    pretraining = study.pretraining_of(start, task)
    own = seed if study.config.pretraining_seeds else None
    bn = f"bn_{variant}" if variant else ""
    part = "" if fraction == 1 else f"fraction_{fraction:g}"
    group = " ".join(filter(None, (task, protocol, part)))
    name = " ".join(filter(None, (group, start, bn, f"seed {seed}")))
    random = study.is_random(start, task)
    changes: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "primary_metric": spec_.primary_metric,
        "data": {"dir": str(dataset_dir(study, workdir, spec_.dataset))},
        "tags": {"task": task, "protocol": protocol, "start": start, "variant": bn, "seed_varies": varies},
        "init_from": "" if random else str(_start_dir(study, workdir, start, pretraining, own)),
        "input": plain(spec_.input) if random else None,
        "adapter": _declared_adapter(study, task, start),
        "backbone": study.backbone(template, study.imported(start, task)),
    }
    changes["data"]["subset"] = {**plain(template.data.subset), "fraction": fraction}
    changes["tags"]["fraction"] = fraction
    if sources := [s for s in study.trained_on(pretraining) if s != spec_.dataset]:
        changes["audit"] = {**plain(template.audit), "sources": [str(dataset_dir(study, workdir, s)) for s in sources]}
    if template.run == "probe":
        changes["probe"] = {"cache_dir": str(workdir / "features")} | ({"batch_stats": variant} if variant else {})
    if template.run == "train" and spec_.augment is not None:
        changes["augment"] = plain(spec_.augment)  # the same for every start: a fair comparison
    needs = [_build_id(study, spec_.dataset), _pretraining_id(pretraining, own) if pretraining else ""]
    place = workdir / "runs" / _id(name)
    return Run(name, derived(template, **changes), place, tuple(filter(None, needs)), pretraining, group)


def _start_dir(study: Study, workdir: Path, start: str, pretraining: str, seed: int | None) -> Path:
    return pretraining_dir(workdir, pretraining, seed) if pretraining else study.weights(start)


def _all_seeds(study: Study) -> list[int]:
    """The seeds of the study and of its blocks, each once."""
    return list(dict.fromkeys([*study.seeds, *(s for block in study.blocks.values() for s in block.seeds)]))


def _pretraining_name(name: str, seed: int | None) -> str:
    return f"pretrain {name}" + ("" if seed is None else f" seed {seed}")


def _pretraining_id(name: str, seed: int | None) -> str:
    return _id(_pretraining_name(name, seed))


def _build_id(study: Study, dataset: str) -> str:
    return "" if study.datasets[dataset].built else f"build-{dataset}"


def _id(name: str) -> str:
    """A name as a file name."""
    return re.sub(r"[^\w.+=-]", "-", name)


def _declared_adapter(study: Study, task: str, start: str) -> dict[str, Any] | None:
    """Returns the crossing that the task declares for starts of this modality, or None."""
    modality = study.modality(start, task)
    return plain(study.tasks[task].adapters[modality]) if modality in study.tasks[task].adapters else None


def derived(template: ConfigDict, **changes: Any) -> ConfigDict:
    """Returns a locked copy of a template with sections updated field by field."""
    out = template.to_dict()
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(out.get(key), dict) and key in ("data", "tags", "probe")
        out[key] = {**out[key], **value} if merge else value
    return ConfigDict(out).lock()


def check_ids(jobs: Sequence[Run | Validation]) -> None:
    """Refuses two jobs with one id, and two names for one run: the same config on the same dataset from one start."""
    ids: dict[str, Run | Validation] = {}
    runs: dict[str, Run] = {}
    for job in jobs:
        if job.id in ids:
            raise UserError(f"two configs for the run {job.id!r}", got=f"{ids[job.id].name!r} and {job.name!r}")
        ids[job.id] = job
        if isinstance(job, Validation):
            continue
        what = repr((records.identity(plain(job.config)), job.config.data.dir, job.config.init_from))
        if what in runs:
            raise UserError(
                f"{runs[what].name!r} and {job.name!r} are the same run under two names",
                fix="take one of the two starts, tasks or protocols out, or change what tells them apart",
            )
        runs[what] = job
