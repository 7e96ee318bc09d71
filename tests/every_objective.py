"""Some steps of each registered objective on any devices, so that tests find later ones by themselves.

    python -m tests.every_objective DATASET OUT.json HOST:PORT 2 0     (and 1; or 4 and 0 to 3)

runs them as one of several processes and writes the losses.
"""

import functools
import json
from pathlib import Path
import sys
from typing import Any, NamedTuple

import jax
from ml_collections import FrozenConfigDict

from radnet_jax import distributed, sharding, train
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.step import compiled_prepare, compiled_step
from tests import tiny

NAMES = OBJECTIVES.names()
SIZE = 24
BATCH = 64


class Trained(NamedTuple):
    """What some steps came to: their losses, the state after them, and the two compiled stages."""

    losses: list[float]
    state: Any
    prepare: Any
    step: Any


def config(name, dataset, **changes):
    """The smoke variant of the objective's own config file: configs/pretrain/NAME.py or configs/finetune/NAME.py."""
    for folder, variant in (("pretrain", "smoke"), ("finetune", "smoke,scratch")):
        if (tiny.ROOT / "configs" / folder / f"{name}.py").is_file():
            changes = {"batch_size": BATCH, "total_steps": 4, **changes}
            return tiny.config(f"configs/{folder}/{name}.py", f"{variant},size={SIZE}", dataset, **changes)
    raise FileNotFoundError(f"objective {name!r} has no file in configs/pretrain or configs/finetune")


def trained(config, devices=None, count=3):
    """Runs steps by hand; equal arguments give what was computed before."""
    return _trained(FrozenConfigDict(config), devices, count)


@functools.cache
def _trained(config, devices, count):
    mesh = sharding.make_mesh(devices, replica=config.mesh.replica)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = train.train_batches(parts.split, seed=config.seed, batch_size=config.batch_size, **processes)
    wanted = {"image"} | (objective.requires - {"views"})
    prepare, step, losses = None, None, []
    for number in range(count):
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


def main():
    dataset, out, coordinator, count, number = sys.argv[1:]
    distributed.start(coordinator, int(count), int(number))
    values = {name: trained(config(name, dataset)).losses for name in NAMES}
    if distributed.is_first():
        Path(out).write_text(json.dumps(values))


if __name__ == "__main__":
    main()
