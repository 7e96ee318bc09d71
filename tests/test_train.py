"""The loop: equal losses on any number of devices, exact resume, strict starts."""

import json
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from radnet_jax import checkpoint, sharding, starts, train
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, lock, make_objective, make_recipe, make_tx
from radnet_jax.step import compiled_prepare, compiled_step
from tests import tiny
from tests.tiny import fine_tuning, pretraining

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pretrained(ct_dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    train.run(pretraining(ct_dataset), workdir)
    return workdir


def steps_on(devices, config, count=3):
    """Runs some steps by hand on a mesh of so many devices; returns losses and the final state on the host."""
    mesh = sharding.make_mesh(devices)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    prepare = compiled_prepare(objective.requires, parts.adapter, recipe, mesh)
    step_fn = compiled_step(objective, tx, mesh)
    batches = train.train_batches(parts.split, seed=0, batch_size=config.batch_size)
    losses = []
    for step in range(count):
        batch = next(batches)
        wanted = {k: batch[k] for k in {"image"} | (objective.requires - {"views"})}
        state, metrics = step_fn(state, prepare(sharding.put_batch(wanted, mesh), 0, step), 0)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@pytest.mark.parametrize("make", [pretraining, fine_tuning])
def test_one_two_and_eight_devices_give_the_same_loss(ct_dataset, make):
    config = make(ct_dataset)
    losses = {n: steps_on(n, config)[0] for n in (1, 2, 8)}
    np.testing.assert_allclose(losses[2], losses[1], rtol=2e-4)
    np.testing.assert_allclose(losses[8], losses[1], rtol=2e-4)
    assert losses[1][0] != losses[1][1]


def test_a_run_leaves_what_the_design_says(pretrained):
    record = json.loads((pretrained / "run.json").read_text())
    assert record["kind"] == "pretrain"
    assert record["topology"]["devices"] == 8
    rows = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4]
    assert {"loss", "learning_rate", "examples_per_s", "share_input_wait"} <= set(rows[0])
    arrays, meta = checkpoint.load_arrays(checkpoint.latest_folder(pretrained))
    assert meta["step"] == 4
    assert int(arrays["step"]) == 4
    assert meta["model_input"]["modality"] == "CT"


def test_a_finished_run_is_skipped(ct_dataset, pretrained):
    before = (pretrained / "run.json").stat().st_mtime_ns
    train.run(pretraining(ct_dataset), pretrained)
    assert (pretrained / "run.json").stat().st_mtime_ns == before


def test_checks_are_made_once(ct_dataset, pretrained, monkeypatch):
    """Some go over the labels of whole splits."""
    checked, check = [], train.check
    monkeypatch.setattr(train, "check", lambda config, parts: checked.append(config) or check(config, parts))
    train.run(pretraining(ct_dataset), pretrained)
    assert len(checked) == 1


def test_fine_tuning_starts_from_the_pretrained_backbone(ct_dataset, pretrained, caplog):
    caplog.set_level("INFO", logger="absl")
    config = fine_tuning(ct_dataset, "smoke", init_from=str(pretrained))
    parts = assemble(config)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    arrays, _ = checkpoint.load_arrays(checkpoint.latest_folder(pretrained))
    loaded = {f"params/{k}" for k, _ in train.trees.named_leaves(state.params)} & set(arrays)
    assert any("stage4" in name for name in loaded)
    for name, leaf in train.trees.named_leaves({"params": state.params, "model_state": state.model_state}):
        if "head" not in name:
            np.testing.assert_array_equal(leaf, arrays[name])
    skipped = [name for name in arrays if "/projector/" in name and not name.startswith("opt_state")]
    told = {k: sum(k in name for name in skipped) for k in ("model_state/batch_stats/projector", "params/projector")}
    assert f"skipped {', '.join(f'{name} ({count})' for name, count in told.items())}\n" in caplog.text


def test_fine_tuning_leaves_predictions_of_the_whole_splits(ct_dataset, pretrained, tmp_path):
    config = fine_tuning(ct_dataset, "smoke", init_from=str(pretrained), tags=tiny.TAGS)
    train.run(config, tmp_path)
    run = ledger.read_run(tmp_path)
    card = assemble(config).split.card
    for split in ("val", "test"):
        assert len(run.predictions.of(split)) == card.splits[split]
        assert run.metrics[split]["accuracy"]["value"] is not None
    scores = np.asarray(run.predictions.scores)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert "@4-" in run.checkpoint


def start_process(config_flags, workdir, environment=None):
    command = [sys.executable, "-m", "radnet_jax.main", *config_flags, f"--workdir={workdir}"]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", **(environment or {})}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(ct_dataset, tmp_path):
    flags = [
        "--config=configs/pretrain/simclr.py:smoke,size=24",
        f"--config.data.dir={ct_dataset}",
        "--config.total_steps=60",
        "--config.checkpoint.every=3",
        "--config.log_every=1",
        "--config.backbone.name=resnet10",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    pause = random.Random(0)
    for step in (3, 12, 21):
        process = start_process(flags, killed)
        deadline = time.monotonic() + 120
        while not any(p.name.isdigit() and int(p.name) >= step for p in (killed / "checkpoints").glob("*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(pause.uniform(0, 0.1))  # some of it inside the next save
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "run.json").exists()

    for workdir in (killed, whole):
        process = start_process(flags, workdir)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    first_step = ledger.read_run(killed).timings["first_step"]
    assert 21 <= first_step < 60
    ours, theirs = (checkpoint.load_arrays(checkpoint.latest_folder(w))[0] for w in (killed, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    curves = [[(r["step"], r["loss"]) for r in ledger.read_curves(w)] for w in (killed, whole)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(1, 61))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 5}, "total_steps=5"),
        ({"optimizer": dict(name="adamw", weight_decay=1.0)}, "optimizer.weight_decay=1.0"),
        ({"objective": dict(name="simclr", projector_hidden=8)}, "objective.projector_dim=None"),
    ],
)
def test_a_workdir_of_another_config_is_refused(ct_dataset, pretrained, tmp_path, changes, message):
    (tmp_path / "checkpoints").symlink_to(pretrained / "checkpoints")  # an unfinished run: no run.json
    config = tiny.change(pretraining(ct_dataset), **changes)
    with pytest.raises(UserError, match="another config") as caught:
        train.run(config, tmp_path)
    assert message in str(caught.value)


def test_a_checkpoint_of_another_dataset_is_refused(ct_dataset, pretrained, tmp_path):
    (tmp_path / "checkpoints").symlink_to(pretrained / "checkpoints")
    other = tmp_path / "dataset"
    shutil.copytree(ct_dataset, other)
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps(card | {"fingerprint": "another"}))
    with pytest.raises(UserError, match="dataset=another"):
        train.run(pretraining(other), tmp_path)


def test_a_run_may_be_moved_and_its_folders_be_spelled_otherwise(ct_dataset, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "moved")
    shutil.copytree(ct_dataset, tmp_path / "dataset")
    (tmp_path / "x").mkdir()
    train.run(pretraining(tmp_path / "x" / ".." / "dataset"), tmp_path / "moved")
    assert str(tmp_path) not in (tmp_path / "moved" / "run.json").read_text()
    assert str(ct_dataset.parent) not in (tmp_path / "moved" / "run.json").read_text()


def test_two_commands_do_not_write_one_workdir(ct_dataset, tmp_path):
    with lock(tmp_path), pytest.raises(UserError, match="another process"):
        train.run(pretraining(ct_dataset), tmp_path)


def test_a_finished_run_of_another_config_is_refused(ct_dataset, pretrained):
    with pytest.raises(UserError, match="finished run of another config"):
        train.run(pretraining(ct_dataset, seed=1), pretrained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(backbone=dict(name="resnet10", base_width=8)), "another architecture"),
        (dict(primary_metric="acuracy"), 'did you mean "accuracy"'),
    ],
)
def test_a_start_that_does_not_fit_is_refused(ct_dataset, pretrained, tmp_path, changes, message):
    config = fine_tuning(ct_dataset, "smoke", init_from=str(pretrained), **changes)
    with pytest.raises(UserError, match=message):
        train.run(config, tmp_path / "run")


def test_a_start_whose_run_was_interrupted_is_said_to_be_one(pretrained, tmp_path, caplog):
    assert starts.find_start(str(pretrained)).id.partition("@")[2].startswith("4-")
    assert "has not ended" not in caplog.text
    shutil.copytree(pretrained, tmp_path / "run")
    (tmp_path / "run" / ledger.RUN_FILE).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    starts.find_start(str(tmp_path / "run"))
    assert "has not ended: what starts from it starts from step 2 of 4" in caplog.text


def test_how_a_start_was_computed_is_not_its_architecture(ct_dataset, pretrained):
    backbone = dict(name="resnet10", base_width=4, dtype="bfloat16", norm_momentum=0.99, zero_init_last=True)
    config = fine_tuning(ct_dataset, "smoke", init_from=str(pretrained), backbone=backbone, groups=8)
    assert assemble(config).start.folder.parent.parent == pretrained


def test_a_step_that_is_not_finite_stops_the_run_and_leaves_the_state_before_it(ct_dataset, tmp_path):
    config = pretraining(ct_dataset, schedule=dict(name="constant", base_lr=1e30), optimizer=dict(name="sgd"))
    with pytest.raises(
        UserError, match=r"step 2 of .* is not finite; got .*; .*checkpoint 1, the batch nonfinite/"
    ) as e:
        train.run(config, tmp_path)
    assert "statistics" in str(e.value) or "new model_state" in str(e.value)
    arrays, _ = checkpoint.load_arrays(checkpoint.latest_folder(tmp_path))
    assert int(arrays["step"]) == 1
    assert all(np.isfinite(x).all() for x in arrays.values())
    saved = np.load(tmp_path / "nonfinite" / "step_1_process_0.npz")
    batches = train.train_batches(assemble(config).split, seed=config.seed, batch_size=config.batch_size, start=1)
    np.testing.assert_array_equal(saved["image"], next(batches)["image"])
    with pytest.raises(UserError, match=r"step 2 .* is not finite"):  # at once, with the same batch
        train.run(config, tmp_path)


def test_the_best_weights_on_val_are_kept_and_judged(ct_dataset, tmp_path):
    changes = dict(select=dict(every=1, split="val"), average=0.5, judged_weights="best", tags=tiny.TAGS)
    train.run(fine_tuning(ct_dataset, checkpoint=dict(every=100, keep=1), **changes), tmp_path)
    run = ledger.read_run(tmp_path)
    rows = ledger.read_curves(tmp_path)
    values = [r["val_accuracy"] for r in rows]
    assert len(values) == 4
    best = run.record["best"]
    assert best == {"step": 1 + int(np.argmax(values)), "value": max(values)}
    assert run.record["weights"] == "best"
    of_weights = run.record["metrics_of_weights"]
    assert set(of_weights) == {"last", "average", "best"}
    assert of_weights["best"]["val"]["accuracy"]["value"] == pytest.approx(max(values))
    assert of_weights["last"]["val"]["accuracy"]["value"] == pytest.approx(values[-1])
    assert run.metrics == of_weights["best"]
    kept = {int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert kept == {best["step"], 4}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_saves_and_exits_with_75(ct_dataset, tmp_path, number):
    flags = [
        "--config=configs/pretrain/simclr.py:smoke,size=24",
        f"--config.data.dir={ct_dataset}",
        "--config.total_steps=2000",
        "--config.checkpoint.every=2000",
        "--config.log_every=1",
        "--config.backbone.name=resnet10",
        "--config.backbone.base_width=4",
    ]
    process = start_process(flags, tmp_path)
    deadline = time.monotonic() + 120
    while not ((tmp_path / "metrics.jsonl").is_file() and (tmp_path / "metrics.jsonl").read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "the same command goes on from there" in errors
    arrays, meta = checkpoint.load_arrays(checkpoint.latest_folder(tmp_path))
    assert 3 < int(arrays["step"]) == meta["step"] < 2000


def test_configs_are_locked():
    config = load_config(ROOT / "configs" / "pretrain" / "simclr.py", "smoke")
    with pytest.raises((AttributeError, KeyError)):
        config.batchsize = 3
