"""What the compiler made of each objective's step for 8 devices: an eighth of the work, and no gathered images."""

import re

import jax
import pytest

from radnet_jax import sharding, train
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.step import compiled_prepare, compiled_step
from tests import tiny

BATCH = 64
CASES = {
    "simclr": ("configs/pretrain/simclr.py", "smoke,size=24"),
    "classification": ("configs/finetune/classification.py", "smoke,scratch,size=24"),
}


def compiled(name, dataset, devices):
    mesh = sharding.make_mesh(devices)
    config = tiny.config(*CASES[name], dataset, batch_size=BATCH, total_steps=4)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    batch = next(train.train_batches(parts.split, seed=0, batch_size=BATCH))
    batch = sharding.put_batch({k: batch[k] for k in {"image"} | (objective.requires - {"views"})}, mesh)
    prepare = compiled_prepare(objective.requires, parts.adapter, recipe, mesh)
    stage = prepare.lower(batch, 0, 0).compile()
    step = compiled_step(objective, tx, mesh).lower(state, prepare(batch, 0, 0), 0).compile()
    return stage, step


def largest_gather(text):
    """Elements of the largest all-gather or all-to-all result in a compiled module."""
    sizes = [0]
    for shape in re.findall(r"= \(?\w+\[([\d,]+)\][^=]*? (?:all-gather|all-to-all)(?:-start)?\(", text):
        size = 1
        for dim in shape.split(","):
            size *= int(dim)
        sizes.append(size)
    return max(sizes)


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_of_eight_devices_does_an_eighth_of_the_work(ct_dataset, name):
    whole_stage, whole_step = compiled(name, ct_dataset, 1)
    stage, step = compiled(name, ct_dataset, 8)
    flops = [c.cost_analysis()["flops"] for c in (whole_step, step)]
    assert flops[1] < 1.5 * flops[0] / 8, f"{flops[1] / flops[0]:.2f} of the work on each device"
    stage_flops = [c.cost_analysis()["flops"] for c in (whole_stage, stage)]
    assert stage_flops[1] < 1.5 * stage_flops[0] / 8


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_device_gathers_the_images(ct_dataset, name):
    stage, step = compiled(name, ct_dataset, 8)
    images = BATCH * 24 * 24 * 3
    assert largest_gather(step.as_text()) < images / 4  # embeddings are gathered, images and feature maps are not
    assert largest_gather(stage.as_text()) < images / 4
    assert "all-reduce" in step.as_text()  # gradients and BatchNorm statistics


def test_the_largest_gather_is_found_where_there_is_one():
    mesh = sharding.make_mesh(8)
    x = jax.device_put(jax.numpy.ones((64, 32)), sharding.batch_sharding(mesh))
    gathered = jax.jit(lambda x: x * 2, out_shardings=sharding.replicated(mesh)).lower(x).compile()
    assert largest_gather(gathered.as_text()) == 64 * 32
