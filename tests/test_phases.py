"""Phases between steps: when they are due, that a pass shows every example once, and what a phase may change."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import checkpoint, phases, sharding, train
from radnet_jax.data.pipeline import steps_per_epoch
from radnet_jax.evaluation import ledger
from radnet_jax.objectives import Defaults, Phase, bank
from radnet_jax.parts import assemble
from radnet_jax.phases import Phases, is_due
from radnet_jax.state import TrainState
from tests import every_objective


@pytest.mark.parametrize(
    ("phase", "steps"),
    [
        (Phase("once", every=0, first=0, reads=True), [0]),
        (Phase("epochs", every=3, first=0, reads=False), [0, 3, 6]),
        (Phase("later", every=3, first=4, reads=False), [4, 7]),
        (Phase("once later", every=0, first=5, reads=False), [5]),
    ],
)
def test_is_due(phase, steps):
    assert [step for step in range(8) if is_due(phase, step)] == steps


@dataclasses.dataclass(frozen=True)
class Recorder(Defaults):
    """Keeps the mean of each image and how often it was shown; its second phase adds them up."""

    phases = (Phase("read", every=2, first=1, reads=True), Phase("sum", every=2, first=1, reads=False))

    def observe(self, state, batch, phase):
        assert phase.name == "read"
        rows = state.objective_state["bank"]
        shown = rows["shown"].at[batch["index"]].add(batch["valid"].astype(jnp.int32), mode="drop")
        means = batch["image"].mean(axis=(1, 2, 3))
        return state.objective_state | {
            "bank": {"shown": shown, "mean": bank.write(rows["mean"], batch["index"], means)}
        }

    def finish(self, state, phase, rng):
        total = state.objective_state["bank"]["mean"].sum() * (phase.name == "sum")
        return state.objective_state | {"total": total}, {f"{phase.name}_drawn": jax.random.uniform(rng)}


@pytest.mark.parametrize("devices", [1, 8])
def test_a_pass_shows_every_example_once(ct_dataset, devices):
    config = every_objective.config("simclr", ct_dataset, eval_batch_size=32)
    parts = assemble(config, sharding.make_mesh(devices))
    n = len(parts.split)
    assert n % 32, "the last batch is filled up"
    rows = {"shown": jnp.zeros(bank.rows(n), jnp.int32), "mean": jnp.full(bank.rows(n), 7.0)}
    state = TrainState(jnp.int32(1), {}, {}, {"bank": rows, "total": jnp.zeros(())}, (), {})
    state = sharding.place(state, parts.mesh, ())
    phases = Phases(config, parts, Recorder())
    assert phases.due(0) == []
    state, metrics = phases.run(state, 1)
    shown, means = (np.asarray(state.objective_state["bank"][k]) for k in ("shown", "mean"))
    assert (shown[:n] == 1).all()
    assert not shown[n:].any()
    assert (means[n:] == 7).all()
    assert len(np.unique(means[:n])) > n / 2
    np.testing.assert_allclose(state.objective_state["total"], means.sum(), rtol=1e-5)
    assert state.objective_state["bank"]["mean"].sharding.is_equivalent_to(sharding.batch_sharding(parts.mesh), 1)
    assert set(metrics) == {"read_drawn", "sum_drawn"}
    assert phases.values() == {k: float(v) for k, v in metrics.items()}
    assert float(metrics["read_drawn"]) != float(metrics["sum_drawn"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("name", "where"), [("pcl_v2", "within the pass"), ("deepcluster_v2", "after the clusters")])
def test_a_run_killed_at_a_phase_goes_on_bit_for_bit(ct_dataset, tmp_path, monkeypatch, name, where):
    config = every_objective.config(name, ct_dataset, total_steps=4, eval_batch_size=16)  # an epoch is one step
    train.run(config, tmp_path / "whole")
    batches, run = phases.eval_batches, Phases.run

    def some_batches(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs)):
            if number == 2:
                raise Killed
            yield batch

    def killed(self, state, step):
        if step != 3:
            return run(self, state, step)
        if where == "within the pass":
            monkeypatch.setattr(phases, "eval_batches", some_batches)
        run(self, state, step)
        raise Killed

    monkeypatch.setattr(Phases, "run", killed)
    with pytest.raises(Killed):
        train.run(config, tmp_path / "killed")
    assert checkpoint.latest_folder(tmp_path / "killed").name == "2"
    monkeypatch.undo()
    train.run(config, tmp_path / "killed")
    whole, killed = (checkpoint.load_arrays(tmp_path / n / "checkpoints" / "4")[0] for n in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for key, array in whole.items():
        np.testing.assert_array_equal(array, killed[key], err_msg=key)


def test_a_run_that_goes_on_logs_the_phase_before_its_checkpoint(ct_dataset, tmp_path):
    """Two of three steps of an epoch are done after the checkpoint: the clusters are those of before it."""
    changes = dict(batch_size=24, total_steps=3, log_every=1, checkpoint=dict(every=1, keep=3))
    config = every_objective.config("deepcluster_v2", ct_dataset, **changes)
    assert steps_per_epoch(len(assemble(config, sharding.make_mesh(8)).split), 24) > 2
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train.run(config, whole)
    (stopped / "checkpoints").mkdir(parents=True)
    shutil.copytree(whole / "checkpoints" / "1", stopped / "checkpoints" / "1")
    train.run(config, stopped)
    rows = [ledger.read_run(folder).curves for folder in (whole, stopped)]
    assert len(rows[1]) == 2
    for there, here in zip(rows[0][1:], rows[1]):
        assert here["clusters_used"] == there["clusters_used"]
