"""What the compiler made of each objective's step for 8 devices: the same losses and the same state, an eighth of the
work on each, and no gathered images; with the state divided by rule, parameters are gathered and gradients divided."""

from collections import defaultdict
import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from radnet_jax import sharding, trees
from tests import every_objective, tiny
from tests.every_objective import BATCH, NAMES, SIZE, trained

IMAGES = BATCH * SIZE * SIZE * 3
FSDP = ((r"stem_conv", "replicated"), (r".*kernel", "largest"))


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALL", 2**10)
        yield


@pytest.fixture(params=every_objective.marked(), scope="module")
def config(request, ct_dataset):
    """All tests of a config, then the next: so it is compiled once."""
    return every_objective.comparable(request.param, ct_dataset)


@pytest.fixture
def divided(config):
    return tiny.change(config, fsdp=FSDP, mesh=dict(replica=2), average=0.9)


def collectives(compiled):
    """Sizes of the results of each kind of collective in float32 elements."""
    found = {kind: [size // 4 for size in sizes] for kind, sizes in sharding.collectives(compiled.as_text()).items()}
    return defaultdict(list, found)


PARTS = ("params", "model_state", "objective_state", "opt_state")


def assert_equal_states(found, wanted):
    """Parameters and what is remembered are equal after some steps: target, queue, bank, clusters, prototypes, centre.

    Sums are taken in another order, and what comes of that grows with each step and with low temperatures (SwAV's
    exp(score / .05) and VICReg's roots of variances above all): to 1e-2 of the largest entry of an array.
    Assignments to clusters, places in a queue and counters are equal exactly.
    """
    assert int(found.step) == int(wanted.step)
    for part in PARTS:
        there, here = (dict(trees.named_leaves(getattr(state, part))) for state in (wanted, found))
        assert there.keys() == here.keys()
        for name, want in there.items():
            want, got = np.asarray(want), np.asarray(here[name])
            if np.issubdtype(want.dtype, np.integer):
                np.testing.assert_array_equal(got, want, err_msg=f"{part}/{name}")
            else:
                largest = max(np.abs(want).max(initial=0), 1e-3)
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-2 * largest, err_msg=f"{part}/{name}")


def test_one_and_eight_devices_give_the_same_losses_and_state(config):
    one, eight = trained(config, 1), trained(config, 8)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=2e-4)
    assert len(set(one.losses)) == 3
    assert_equal_states(eight.state, one.state)


def test_each_of_eight_devices_does_an_eighth_of_the_work(config):
    one, eight = trained(config, 1), trained(config, 8)
    flops = [c.cost_analysis()["flops"] for c in (one.step, eight.step)]
    assert flops[1] < 1.5 * flops[0] / 8, f"{flops[1] / flops[0]:.2f} of the work on each device"
    for prepare, rows in ((one.prepare, BATCH), (eight.prepare, BATCH // 8)):  # what is done in a loop isn't counted
        assert re.search(rf"s16\[{rows},\S+ parameter", prepare.as_text())


def test_no_device_gathers_the_images(config):
    eight = trained(config, 8)
    of_step = collectives(eight.step)
    # embeddings are gathered, images and feature maps are not
    assert max(of_step["all-gather"] + of_step["all-to-all"], default=0) < IMAGES / 4
    assert not collectives(eight.prepare)
    assert len(of_step["all-reduce"]) > 1  # gradients and BatchNorm statistics
    assert sum(of_step["all-reduce"]) < 3 * parameters(eight.state)


def parameters(state):
    return sum(x.size for x in jax.tree.leaves(state.params))


def test_a_divided_state_trains_as_a_whole_one_in_less_memory(config, divided):
    whole, part = trained(config, 8), trained(divided, 8)
    np.testing.assert_allclose(part.losses, whole.losses, rtol=2e-4)
    assert_equal_states(part.state, whole.state)
    before, after = trees.size_bytes(part.state), sharding.bytes_on_device(part.state)
    large = {n: x for n, x in trees.named_leaves(part.state) if "kernel" in n and x.size >= sharding.SMALL}
    assert {"params", "opt_state", "aux"} <= {name.partition("/")[0] for name in large}
    assert all(x.addressable_shards[0].data.size == x.size // 4 for x in large.values())
    banks = trees.size_bytes({k: v for k, v in part.state.objective_state.items() if k == "bank"})
    assert after == before - trees.size_bytes(large) * 3 // 4 - banks * 7 // 8
    assert after < before / 2
    arguments = part.step.memory_analysis().argument_size_in_bytes
    assert after < arguments < after + 4 * IMAGES  # what the compiler reserves on a device agrees
    assert part.step.memory_analysis().alias_size_in_bytes > 0.99 * after  # the old state's memory is used again


def test_a_divided_step_gathers_parameters_and_divides_gradients(config, divided):
    whole, part = trained(config, 8), trained(divided, 8)
    networks = (part.state.params, part.state.objective_state.get("target", {}))
    kernels, targets = (
        {n: x for n, x in trees.named_leaves(network) if "kernel" in n and x.size >= sharding.SMALL}
        for network in networks
    )
    before, after = collectives(whole.step), collectives(part.step)
    for kernel in kernels.values():
        assert after["all-gather"].count(kernel.size) > before["all-gather"].count(kernel.size)
        # Sums within a group of devices, on CPU of the whole gradient, and then of a device's part over the replicas.
        sums = after["all-reduce"] + after["reduce-scatter"]
        assert sums.count(kernel.size // 4) > before["all-reduce"].count(kernel.size // 4)
    # Nothing but parameters is gathered that was not before: the rest stays divided by examples.
    more = sum(after["all-gather"]) - sum(before["all-gather"])
    assert more <= 1.1 * sum(kernel.size for kernel in (*kernels.values(), *targets.values()))
    flops = [c.step.cost_analysis()["flops"] for c in (whole, part)]
    assert flops[1] < 1.1 * flops[0]


def test_the_collectives_are_found_where_there_are_some():
    mesh = sharding.make_mesh(8)
    x = jax.device_put(jax.numpy.ones((64, 32)), sharding.batch_sharding(mesh))
    gathered = jax.jit(lambda x: x * 2, out_shardings=sharding.replicated(mesh)).lower(x).compile()
    assert collectives(gathered) == {"all-gather": [64 * 32]}
    summed = jax.jit(lambda x: x.sum(0), out_shardings=sharding.replicated(mesh)).lower(x).compile()
    assert collectives(summed) == {"all-reduce": [32]}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%ar = (f32[8,4]{1,0}, bf16[3]{0}) all-reduce(%a, %b), channel_id=1", {"all-reduce": [128, 6]}),
        ("%ag = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%a), dimensions={0}", {"all-gather": [256]}),
        ("%as = (f32[8]{0}, f32[8]{0}) all-reduce-start(%a, %b)", {"all-reduce": [32, 32]}),
        ("%cp = (s8[8]{0}, s8[8]{0}, u32[], u32[]) collective-permute-start(%a)", {"collective-permute": [8]}),
        ("%d = f32[16,4]{1,0} all-gather-done(%ag)", {}),
        ("%rs = f32[] reduce-scatter(%a)", {"reduce-scatter": [4]}),
        ("%p = pred[16]{0} collective-permute(%a)", {"collective-permute": [16]}),
    ],
)
def test_collectives_are_read_as_compilers_write_them(line, found):
    assert sharding.collectives(line) == found


@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ("pcl_v2",)),  # simclr: tests/test_distributed.py
        pytest.param(2, sorted({*NAMES} - {"pcl_v2"}), marks=pytest.mark.slow),
        pytest.param(4, NAMES, marks=pytest.mark.slow),
    ],
)
def test_processes_give_the_losses_of_one(ct_dataset, tmp_path, processes, names):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(8 // processes)}
    command = [sys.executable, "-m", "tests.every_objective", ct_dataset, tmp_path / "losses", f"localhost:{port}"]
    started = [
        subprocess.Popen(
            [*map(str, command), str(processes), str(i), ",".join(names)],
            cwd=tiny.ROOT,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    errors = [p.communicate(timeout=200 * len(names))[1] for p in started]
    assert [p.returncode for p in started] == [0] * processes, errors
    losses = json.loads((tmp_path / "losses").read_text())
    assert set(losses) == set(names)
    for name in names:
        expected = trained(every_objective.comparable(name, ct_dataset), 8).losses
        np.testing.assert_allclose(losses[name], expected, rtol=2e-4)
