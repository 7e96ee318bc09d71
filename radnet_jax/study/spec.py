"""What a study's config says, read into frozen parts; every name is checked here, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from radnet_jax import external
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.compare import compare
from radnet_jax.parts import plain
from radnet_jax.registry import check_arguments
from radnet_jax.starts import NOT_ARCHITECTURE, find_start
from radnet_jax.starts import Start as FoundStart
from radnet_jax.study.naming import at

_OFFERED = ("run", "workdir", "site", "mesh", "batch_size", "start")  # of `external.validate`
SCRATCH = ""  # a start without a pretraining
Section: TypeAlias = Mapping[str, Any]  # or a ConfigDict
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset of a study.

    Attributes:
      dataset: registered name of its builder.
      options: of the build.
      source: raw files, below `config.data_root`; the study builds them.
      generate: instead, what to generate: `kind` and arguments.
      built: instead, a dataset that is built already, below `config.data_root`.
      mix: instead, {dataset of the study: weight} of a mixture.
    """

    dataset: str
    options: Section
    source: str = ""
    generate: Section | None = None
    built: str = ""
    mix: Section = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A pretraining of a study.

    Attributes:
      dataset: name of the dataset it trains on.
      config: of the run.
      start: name of the start that it goes on from, such as another pretraining; "" begins at random.
      audit: whether tasks first look for images and patients that they share with its dataset, and refuse to go on.
    """

    dataset: str
    config: ConfigDict
    start: str = ""
    audit: bool = False


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the backbones of a start come from: one of the two, or neither for random weights.

    Attributes:
      pretraining: name of a pretraining of the study, or {task: name} where a start is a method.
      weights: folder of imported weights, or its name below `config.weights_root`.
      needs: how to get these weights, for the message that they are missing.
    """

    pretraining: str | Section = SCRATCH
    weights: str = ""
    needs: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """A downstream task.

    Attributes:
      dataset: its dataset.
      input: what a network from scratch sees.
      primary_metric: declared before anything runs.
      adapters: declared crossings, by the modality of the start.
      augment: the same for every start; None leaves that of the protocol's config.
      external: {site: dict(dataset=..., labels=((theirs, ours), ...))}: each fine-tuning, and each linear probe of a
        start, is judged there too.
      configs: {protocol: config} where the task has its own, such as a published recipe; `at(protocol, fraction)`
        names one that is for a label fraction only.
    """

    dataset: str
    input: ConfigDict
    primary_metric: str
    adapters: Section = dataclasses.field(default_factory=dict)
    augment: Section | None = None
    external: Section = dataclasses.field(default_factory=dict)
    configs: Section = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a start is judged on a task.

    Attributes:
      config: of the run; None where each task has its own.
    """

    config: ConfigDict | None = None


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the matrix that is run as a whole, such as an experiment; what is empty stands for all.

    Attributes:
      tasks: names.
      protocols: names.
      starts: names.
      fractions: of the labels of train, 1.0 for all.
      seeds: of the runs.
    """

    tasks: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, read from its config. See the attributes' classes."""

    config: ConfigDict
    datasets: Mapping[str, Dataset]
    pretraining: Mapping[str, Pretraining]
    starts: Mapping[str, Start]
    tasks: Mapping[str, Task]
    protocols: Mapping[str, Protocol]
    blocks: Mapping[str, Block]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seeds)

    def template(self, task: str, protocol: str, fraction: float = 1.0) -> ConfigDict:
        """The config of a protocol on a task."""
        own = self.tasks[task].configs
        for name in (at(protocol, fraction), protocol):
            if name in own:
                return own[name]
        return self.protocols[protocol].config

    def trained_on(self, pretraining: str) -> tuple[str, ...]:
        """The datasets, in a chain of pretrainings, that a task is to be audited against."""
        if not pretraining:
            return ()
        own = self.pretraining[pretraining]
        before = self.starts[own.start].pretraining if own.start else SCRATCH
        return (*self.trained_on(str(before)), *((own.dataset,) if own.audit else ()))

    def pretraining_of(self, start: str, task: str) -> str:
        """The pretraining of a start for a task; "" for imported and for random weights."""
        pretraining = self.starts[start].pretraining
        return pretraining if isinstance(pretraining, str) else pretraining[task]

    def is_random(self, start: str, task: str) -> bool:
        return self.pretraining_of(start, task) == SCRATCH and not self.starts[start].weights

    def weights(self, start: str) -> Path:
        """The folder of a start's imported weights: a path that is there, else a name below `config.weights_root`."""
        path = Path(self.starts[start].weights)
        return path if path.is_dir() or not self.config.weights_root else Path(self.config.weights_root) / path

    def first(self, pretraining: str) -> str:
        """The pretraining that a chain of them begins with."""
        start = self.pretraining[pretraining].start
        before = self.starts[start].pretraining if start else SCRATCH
        return self.first(str(before)) if before else pretraining

    def imported(self, start: str, task: str) -> str:
        """The start whose imported weights a start goes back to; "" where there are none."""
        pretraining = self.pretraining_of(start, task)
        if pretraining:
            start = self.pretraining[self.first(pretraining)].start
        return start if start and self.starts[start].weights else ""

    def modality(self, start: str, task: str) -> str:
        """What the backbones of a start expect to see; "" where that stands in weights which are not there yet."""
        if imported := self.imported(start, task):
            found = self.find_weights(imported)
            return found.model_input.modality if found else ""
        pretraining = self.pretraining_of(start, task)
        section = self.pretraining[self.first(pretraining)].config.input if pretraining else self.tasks[task].input
        return section.modality

    def find_weights(self, start: str) -> FoundStart | None:
        """The imported weights of a start; None where they are not there."""
        folder = self.weights(start)
        return _found(str(folder)) if folder.is_dir() else None

    def backbone(self, template: ConfigDict, imported: str) -> dict[str, Any]:
        """The backbone section of a run: its config's, with the architecture of the weights that it goes back to."""
        own = plain(template.backbone)
        if not imported or (found := self.find_weights(imported)) is None:
            return own
        kept = {k: v for k, v in own.items() if k in NOT_ARCHITECTURE}
        return {k: v for k, v in found.backbone.items() if k not in NOT_ARCHITECTURE} | kept


@functools.lru_cache(maxsize=256)
def _found(folder: str) -> FoundStart:
    return find_start(folder)


def read(config: ConfigDict) -> Study:
    """Reads a study's config; refuses unknown fields and names, circles, and what can't be a study."""
    study = Study(
        config,
        _sections("dataset", Dataset, config.datasets),
        _sections("pretraining", Pretraining, config.pretraining),
        _sections("start", Start, config.starts),
        _sections("task", Task, config.tasks),
        _sections("protocol", Protocol, config.protocols),
        _sections("block", Block, config.blocks) or {"": Block()},
    )
    for name, dataset in study.datasets.items():
        for member in dataset.mix:
            known(f"member of mixture {name!r}", member, study.datasets)
            if study.datasets[member].mix:
                raise UserError(f"member of mixture {name!r} is a mixture", got=member)
    for name, pretraining in study.pretraining.items():
        known(f"dataset of pretraining {name!r}", pretraining.dataset, study.datasets)
        if pretraining.start:
            known(f"start of pretraining {name!r}", pretraining.start, study.starts)
    for name, task in study.tasks.items():
        known(f"dataset of task {name!r}", task.dataset, study.datasets)
        for site, where in task.external.items():
            check_arguments(
                f"external site {site!r} of task {name!r}", external.validate, dict(where), offered=_OFFERED
            )
            known(f"dataset of external site {site!r}", where["dataset"], study.datasets)
        for protocol in task.configs:
            known(f"protocol of task {name!r}", protocol.partition("@")[0], study.protocols)
    _check_starts(study)
    _check_blocks(study)
    _check_numbers(study)
    check_arguments("config.compare", compare, config.compare.to_dict(), offered=["runs"])
    for name, dataset in study.datasets.items():
        if dataset.generate is None and not dataset.mix and not config.data_root and not config.list:
            where = f"built from {dataset.source!r}" if dataset.source else f"read from {dataset.built!r}"
            raise UserError(
                f"config.data_root is missing, and dataset {name!r} is {where} below it", fix="--config.data_root=DIR"
            )
    return study


def _sections(kind: str, part: type[T], sections: ConfigDict) -> dict[str, T]:
    out = {}
    for name, section in sections.items():
        fields = {k: section[k] for k in section}
        check_arguments(f"{kind} {name!r} of the study", part, fields)
        out[name] = part(**fields)
    return out


def known(what: str, name: str, valid: Iterable[str]) -> None:
    """Refuses a name that is not among the valid ones."""
    if name not in (valid := list(valid)):
        raise UserError(
            f"unknown {what}: {name!r}{nearest(name, valid)}", expected=f"one of {', '.join(valid) or 'none'}"
        )


def _check_starts(study: Study) -> None:
    for name, start in study.starts.items():
        if start.weights and start.pretraining:
            raise UserError(f"start {name!r} has a pretraining and imported weights", expected="one of them")
        if isinstance(start.pretraining, str):
            if start.pretraining:
                known(f"pretraining of start {name!r}", start.pretraining, study.pretraining)
            continue
        if set(start.pretraining) != set(study.tasks):
            raise UserError(
                f"start {name!r} has pretrainings by task",
                got=", ".join(start.pretraining),
                expected=f"one for each of {', '.join(study.tasks)}",
            )
        for pretraining in start.pretraining.values():
            known(f"pretraining of start {name!r}", pretraining, study.pretraining)
    for name in study.pretraining:
        seen: list[str] = []
        at = name
        while at:
            if at in seen:
                raise UserError(f"pretraining {name!r} starts from itself", got=" <- ".join([*seen, at]))
            seen.append(at)
            start_name = study.pretraining[at].start
            before = study.starts[start_name].pretraining if start_name else SCRATCH
            if not isinstance(before, str):
                raise UserError(f"pretraining {at!r} starts from {start_name!r}, which has pretrainings by task")
            at = before


def _check_blocks(study: Study) -> None:
    for name, block in study.blocks.items():
        of = f" of block {name!r}" if name else ""
        for kind in ("task", "protocol", "start"):
            for value in getattr(block, f"{kind}s"):
                known(f"{kind}{of}", value, getattr(study, f"{kind}s"))
        for fraction in block.fractions:
            if not 0 < fraction <= 1:
                raise UserError(f"fraction{of}", got=fraction, expected="over 0, at most 1")
        for task in block.tasks or study.tasks:
            for protocol in block.protocols or study.protocols:
                for fraction in block.fractions:
                    if study.template(task, protocol, fraction) is None:
                        raise UserError(f"protocol {protocol!r}{of} has no config for task {task!r}")


def _check_numbers(study: Study) -> None:
    config = study.config
    for seeds in (study.seeds, *(block.seeds for block in study.blocks.values() if block.seeds)):
        if len(set(seeds)) != len(seeds) or not seeds:
            raise UserError("config.seeds must be different numbers", got=tuple(seeds))
    for name, value, low in (
        ("at_once", config.at_once, 0),
        ("claims.missed", config.claims.missed, 2),
        ("claims.heartbeat", config.claims.heartbeat, 0.1),
    ):
        if value < low:
            raise UserError(f"config.{name}", got=value, expected=f"at least {low}")
