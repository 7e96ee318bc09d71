"""Some steps of each pretraining config, and of classification, on any devices; tests find later ones by themselves.

    python -m tests.every_objective DATASET OUT.json HOST:PORT 2 0 simclr,moco_v2     (and 1; or 4 and 0 to 3)

runs them as one of several processes and writes the losses.
"""

import functools
import json
from pathlib import Path
import sys
from typing import Any, NamedTuple

import jax
from ml_collections import FrozenConfigDict
import pytest

from radnet_jax import distributed, sharding, train
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.phases import Phases
from radnet_jax.step import MADE, compiled_prepare, compiled_step
from tests import tiny

# By the names of their files, and one with what its file leaves to a change of the config.
NAMES = [*sorted(path.stem for path in (tiny.ROOT / "configs" / "pretrain").glob("[!_]*.py")), "classification"]
QUEUED = {"swav_queue": "swav"}  # full after the first step
CASES = [*NAMES, *QUEUED]
# Compiled in every test run, one of each kind: in-batch negatives; queue and target; prototypes, local views and a
# queue of them; bank, queue and phases with a pass; a ViT; labels. The others are slow tests.
QUICK = ("simclr", "moco_v2", "swav_queue", "pcl_v2", "mae", "classification")
SIZE = 24
BATCH = 64


class Trained(NamedTuple):
    """What some steps came to: their losses, the state after them, and the two compiled stages."""

    losses: list[float]
    state: Any
    prepare: Any
    step: Any


def _file(name):
    name = QUEUED.get(name, name)
    for folder, variant in (("pretrain", "smoke"), ("finetune", "smoke,scratch")):
        if (tiny.ROOT / "configs" / folder / f"{name}.py").is_file():
            return f"configs/{folder}/{name}.py", variant
    raise FileNotFoundError(f"no {name}.py in configs/pretrain or configs/finetune")


def load(name):
    """The smoke variant of a config file, as it is."""
    path, variant = _file(name)
    return load_config(tiny.ROOT / path, variant)


def config(name, dataset, **changes):
    """The smoke variant of a config file, smaller still: configs/pretrain/NAME.py or configs/finetune/NAME.py."""
    path, variant = _file(name)
    changes = {"batch_size": BATCH, "total_steps": 4, **changes}
    made = tiny.config(path, f"{variant},size={SIZE}", dataset, **changes)
    if name in QUEUED:
        made = tiny.change(made, objective=made.objective.to_dict() | {"queue_size": made.batch_size})
    return made


def comparable(name, dataset):
    """The config with SGD. Adam divides by the size of a gradient: where that is rounding, as of a bias in front of a
    BatchNorm, the update is as large as any other and of a sign that says nothing. The rate is low: with ten times as
    much the losses of some (Barlow Twins, VICReg) fall by half in three steps, and rounding grows to per cents.
    """
    sgd = dict(name="sgd", momentum=0.9, weight_decay=1e-4)
    return config(name, dataset, optimizer=sgd, schedule=dict(name="warmup_cosine", base_lr=0.005, warmup_steps=0))


def marked(names=CASES, quick=QUICK):
    """Names for parametrize: those that are not quick are slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def one_for_each_objective():
    """One config of each registered objective, the last one: the newest version, mostly, or the one with a queue."""
    return set({load(name).objective.name: name for name in CASES}.values())


def trained(config, devices=None, count=3):
    """Runs steps by hand; equal arguments give what was computed before."""
    return _trained(FrozenConfigDict(config), devices, count)


@functools.lru_cache(maxsize=6)
def _trained(config, devices, count):
    mesh = sharding.make_mesh(devices, replica=config.mesh.replica)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = train.train_batches(parts.split, seed=config.seed, batch_size=config.batch_size, **processes)
    wanted = {"image"} | (objective.requires - MADE)
    prepare, step, losses = None, None, []
    phases = Phases(config, parts, objective)
    for number in range(count):
        state, _ = phases.run(state, number)
        batch = next(batches)
        batch = sharding.put_batch({k: batch[k] for k in wanted}, mesh)
        if prepare is None:
            stage = compiled_prepare(objective.requires, parts.adapter, recipe, mesh)
            prepare = stage.lower(batch, config.seed, number).compile()
        prepared = prepare(batch, config.seed, number)
        if step is None:
            rules = sharding.make_rules(config.fsdp)
            whole = compiled_step(objective, tx, mesh, config.accumulate, config.average, rules)
            step = whole.lower(state, prepared, config.seed, number).compile()
        state, metrics = step(state, prepared, config.seed, number)  # refuses a state that is laid out otherwise
        losses.append(float(metrics["loss"]))
    batches.close()
    return Trained(losses, state, prepare, step)


def forget():
    """Lets go of what was computed, and of the programs that computed it."""
    _trained.cache_clear()


def main():
    dataset, out, coordinator, count, number, names = sys.argv[1:]
    distributed.start(coordinator, int(count), int(number))
    values = {name: trained(comparable(name, dataset)).losses for name in names.split(",")}
    if distributed.is_first():
        Path(out).write_text(json.dumps(values))


if __name__ == "__main__":
    main()
