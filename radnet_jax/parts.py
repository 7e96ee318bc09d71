"""From a config to the parts of a run, with every check that can be made before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any, get_type_hints

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from radnet_jax import sharding
from radnet_jax.augment import AUGMENTATIONS, recipes
from radnet_jax.data.card import CARD_FILE
from radnet_jax.data.dataset import Split
from radnet_jax.data.labels import Counts, count_labels
from radnet_jax.data.pipeline import steps_per_epoch
from radnet_jax.data.storage import is_remote
from radnet_jax.data.subsets import open_subset
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.evaluators import VIEWS
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES, Objective
from radnet_jax.optim import make_optimizer
from radnet_jax.preprocessing import Adapter, ModelInput, make_adapter
from radnet_jax.registry import check_arguments, named
from radnet_jax.schedules import SCHEDULES
from radnet_jax.starts import Start, check_backbone, find_start

# What an objective's factory is given beside its section, of what it names.
OFFERED = (
    *("backbone", "card", "counts", "num_examples", "batch_size", "total_steps", "steps_per_epoch"),
    *("local_views", "groups"),
)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run works with. `start` is None where weights are initialised at random."""

    mesh: Mesh
    split: Split
    start: Start | None
    adapter: Adapter
    backbone: Any
    backbone_config: Mapping[str, Any]

    @property
    def model_input(self) -> ModelInput:
        return self.adapter.model_input


def plain(section: Any) -> Any:
    """A config section as plain JSON types: tuples become lists, as they do in a checkpoint's meta."""
    if isinstance(section, ConfigDict):
        section = section.to_dict()
    return json.loads(json.dumps(section))


def assemble(config: ConfigDict, mesh: Mesh | None = None, planned: Start | None = None) -> Parts:
    """Opens the dataset, finds the start, and settles the contract between them.

    Args:
      config: of the run.
      mesh: all devices by default, as config.mesh says.
      planned: stands for `init_from`, where a study checks runs whose pretraining is still to come.
    """
    mesh = mesh or sharding.make_mesh(replica=config.mesh.replica if config.run == "train" else 1)
    check_names(config, mesh)
    _check_built(config)
    split = open_subset(config.data.dir, config.data.split, **plain(config.data.subset))
    backbone_config = plain(config.backbone)
    start = planned or (find_start(config.init_from) if config.init_from else None)
    if start is not None:
        check_backbone(start, backbone_config)
        if config.input is not None:
            raise UserError(
                "config.input is given and so is config.init_from, whose checkpoint says what it expects to see",
                fix="set config.input to None",
            )
        model_input = start.model_input
    else:
        if config.input is None:
            raise UserError(
                "config.input is missing",
                expected="what the model sees, for a run without init_from",
                fix="set --config.init_from=WORKDIR, or choose the variant scratch",
            )
        model_input = ModelInput.from_json(plain(config.input))
    adapter = make_adapter(split.card.stored, model_input, plain(config.adapter) if config.adapter else None)
    return Parts(mesh, split, start, adapter, make_backbone(config), backbone_config)


def _check_built(config: ConfigDict) -> None:
    """Refuses a folder without a dataset; where the config knows what builds it, the message says it."""
    folder = str(config.data.dir)
    fix = f"build it: {config.dataset_command}" if config.dataset_command else ""
    if not folder:
        raise UserError("config.data.dir is missing", expected="the folder of a built dataset", fix=fix)
    if fix and not is_remote(folder) and not Path(folder, CARD_FILE).is_file():
        raise UserError(f"no dataset in {folder}", expected=f"a folder with {CARD_FILE}", fix=fix)


def make_backbone(config: ConfigDict) -> Any:
    name, kwargs = named(config.backbone.to_dict())
    groups, remat = (config.groups, config.remat) if config.run == "train" else (1, "none")
    known = MODELS.parameters(name)
    if remat != "none" and "remat" not in known:
        raise UserError(f"config.remat, and backbone {name!r} keeps all it computes", got=remat, fix="set it to none")
    if foreign := [k for k in kwargs if k not in known and any(k in MODELS.parameters(n) for n in MODELS.names())]:
        raise UserError(
            f"config.backbone holds arguments of another backbone than {name!r}",
            got=", ".join(foreign),
            fix=f"give the whole section: --config.backbone=\"{{'name': '{name}'}}\"",
        )
    return MODELS.build(name, kwargs, groups=groups, remat=remat)


def _check_kind(config: ConfigDict) -> None:
    """Refuses a backbone of a kind that the objective says, in its signature, that it does not work with."""
    objective, name = config.objective.name, config.backbone.name
    wanted = get_type_hints(OBJECTIVES.get(objective)).get("backbone", Any)

    def fits(backbone: str) -> bool:  # one whose factory says nothing may be it: the objective looks at what it makes
        made = get_type_hints(MODELS.get(backbone)).get("return", Any)
        return Any in (wanted, made) or issubclass(made, wanted)

    if not fits(name):
        raise UserError(
            f"objective {objective!r} works with a {wanted.__name__} only",
            got=f"config.backbone.name={name}",
            expected=f"one of {', '.join(filter(fits, MODELS.names()))}",
        )


def make_objective(config: ConfigDict, parts: Parts, counts: Counts | None = None) -> Objective:
    """Builds the objective for the run at hand; refuses one that needs what the run or its dataset hasn't got.

    `counts` stand for those of the split's labels, where its records are not at hand.
    """
    name, kwargs = named(config.objective.to_dict())
    local_views = make_recipe(config, parts).local_views
    objective = OBJECTIVES.build(
        name,
        kwargs,
        backbone=parts.backbone,
        card=parts.split.card,
        counts=functools.partial(count_labels, parts.split) if counts is None else lambda: counts,
        num_examples=len(parts.split),
        batch_size=config.batch_size,
        total_steps=config.total_steps,
        steps_per_epoch=steps_per_epoch(len(parts.split), config.batch_size, subset=bool(parts.split.part)),
        local_views=local_views,
        groups=config.groups,
    )
    if config.groups > 1 and objective.weight is None and "groups" not in OBJECTIVES.parameters(name):
        raise UserError(
            f"config.groups, and the loss of {name!r} is not defined by parts of a batch",
            got=config.groups,
            fix="set it to 1",
        )
    if objective.weight is None and config.batch_size < 2 * config.groups:
        raise UserError(
            f"the loss of {name!r} compares the examples of a batch, and each is alone in its own",
            got=f"config.batch_size={config.batch_size}" + f" in {config.groups} groups" * (config.groups > 1),
            expected=f"at least {2 * config.groups}",
        )
    if local_views and "local_views" not in objective.requires:
        raise UserError(
            f"objective {name!r} has no use for local views",
            got=f"{local_views} of augmentation {config.augment.name!r}",
            fix="set --config.augment.local_views=0, or choose an objective with multi-crop, such as swav or dino",
        )
    return objective


def make_recipe(config: ConfigDict, parts: Parts) -> recipes.Recipe:
    """Returns the augmentation recipe: a registered name, and fields of it that the config overrides.

    With `config.groups` each group shares its draws, but where `config.augment.groups` says otherwise.
    """
    name, kwargs = named(config.augment.to_dict())
    if config.groups > 1:
        kwargs = {"groups": config.groups, **kwargs}
    recipe = AUGMENTATIONS.build(name, kwargs)
    recipes.check(recipe, parts.adapter)
    return recipe


def make_tx(config: ConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer and its schedule; equal sections give the same objects, hence one compilation."""
    sections = {"optimizer": plain(config.optimizer), "schedule": plain(config.schedule)}
    return _make_tx(json.dumps(sections, sort_keys=True), config.total_steps)


@functools.lru_cache(maxsize=32)
def _make_tx(sections: str, total_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    parsed = json.loads(sections)
    optimizer, schedule = parsed["optimizer"], parsed["schedule"]
    if not 0 <= schedule["base_lr"] < math.inf:
        raise UserError("config.schedule.base_lr", got=schedule["base_lr"], expected="0 or more")
    built = SCHEDULES.build(schedule.pop("name"), schedule, total_steps=total_steps)
    known = {"base_lr": schedule["base_lr"], "total_steps": total_steps}
    return make_optimizer(optimizer.pop("name"), built, **known, **optimizer), built


def check_names(config: ConfigDict, mesh: Mesh) -> None:
    """Checks all that can be checked of a run before its dataset and start exist: names, arguments, ranges."""
    if config.run == "train":
        _check_kind(config)  # before the backbone's arguments, which are of the other kind too
    make_backbone(config)
    METRICS.get(config.primary_metric)
    _check_range("seed", config.seed, 0, 2**31 - 1)
    _check_range("log_every", config.log_every, 1)
    _check_range("checkpoint.every", config.checkpoint.every, 1)
    _check_range("checkpoint.keep", config.checkpoint.keep, 1)
    sharding.check_batch_size(config.eval_batch_size, mesh, what="eval_batch_size")
    if config.run == "train":
        name, kwargs = named(config.objective.to_dict())
        check_arguments(f"objective {name!r}", OBJECTIVES.get(name), kwargs, offered=OFFERED)
        AUGMENTATIONS.build(*named(config.augment.to_dict()))
        _check_range("total_steps", config.total_steps, 1)
        _check_range("accumulate", config.accumulate, 1)
        _check_range("select.every", config.select.every, 0)
        for what, views in config.views.items():
            if views not in VIEWS:
                raise UserError(
                    f"config.views.{what}{nearest(views, VIEWS)}", got=repr(views), expected=", ".join(VIEWS)
                )
        _check_range("data.shuffle_window", config.data.shuffle_window, 0)
        if not 0 <= config.average < 1:
            raise UserError("config.average", got=config.average, expected="0, or a momentum below 1")
        sharding.check_batch_size(config.batch_size, mesh, parts=config.accumulate)
        sharding.check_groups(config.groups, config.batch_size // config.accumulate, mesh)
        if not sharding.make_rules(config.fsdp) and config.mesh.replica != 1:
            raise UserError(
                "config.mesh.replica changes nothing where config.fsdp divides nothing",
                got=config.mesh.replica,
                fix='set --config.mesh.replica=1, or config.fsdp, for instance to ((".*kernel", "largest"),)',
            )
        make_tx(config)


def _check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        raise UserError(f"config.{name}", got=value, expected=f"at least {low}" + (f", at most {high}" if high else ""))


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds a workdir for this process, so that two commands do not write the same run; freed also when killed."""
    if jax.process_index():  # process 0 holds it for all of them
        yield
        return
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is at work in {workdir}", fix="wait for it, or choose another --workdir"
            ) from error
        except OSError:
            pass  # a file system without locks: there is nothing to hold
        yield


def check_workdir(workdir: str | Path, *, need_bytes: int) -> Path:
    """Makes the workdir; refuses one that can't be written or has no room for what the run will save."""
    folder = Path(workdir).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"workdir {folder} can't be written ({error.strerror})", fix="choose another --workdir, or free space there"
        ) from error
    check_room(folder, need_bytes)
    return folder


def check_room(folder: Path, need_bytes: int) -> None:
    """Refuses to go on where the next save would fill the disk: a save that fails half-way is told at great length."""
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise UserError(
            f"workdir {folder} has not enough room",
            got=f"{free / 2**20:.0f} MiB free",
            expected=f"at least {need_bytes / 2**20:.0f} MiB for checkpoints and logs",
            fix="free space there and start the same command again, or choose another --workdir",
        )
