"""The probe and the neighbours beside a pretraining: they are right, and the pretraining does not notice them."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from radnet_jax import checkpoint, online, sharding, starts, train
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger, probes
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.online import LinearProbe
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.state import LossAux, TrainState
from radnet_jax.step import compiled_observe, compiled_prepare, compiled_step, train_step
from tests import tiny


def pretraining(dataset, **changes):
    defaults = dict(total_steps=4, online_probe=True)
    return tiny.config("configs/pretrain/simclr.py", "smoke,size=24", dataset, **{**defaults, **changes})


def examples(b=64, v=2, d=6, k=3, seed=0):
    """Features of two views that tell the classes apart, with an offset and a scale of their own."""
    rng = np.random.default_rng(seed)
    labels = np.eye(k)[rng.integers(k, size=b)]
    features = (labels @ rng.normal(size=(k, d)))[:, None] + 2 * rng.normal(size=(b, v, d))
    return (50 + 10 * features).astype(np.float32), labels.astype(np.float32)


def test_the_probe_learns_what_logistic_regression_finds():
    features, labels = examples()
    mask = np.ones_like(labels)
    mask[:8] = 0  # unlabelled
    probe = LinearProbe(3, multi_label=False)
    state, update = probe.init(6), jax.jit(probe.update)
    for step in range(3000):
        state, loss, seen = update(state, features, labels, mask)
        if step == 0:
            assert loss == pytest.approx(np.log(3))  # it starts at chance
    x, y = features[8:].reshape(-1, 6), labels[8:].argmax(1).repeat(2)
    x = (x - features.reshape(-1, 6).mean(0)) / features.reshape(-1, 6).std(0)
    best = LogisticRegression(C=np.inf, max_iter=1000).fit(x, y)
    expected = -np.mean(np.log(best.predict_proba(x)[np.arange(len(y)), y]))
    assert loss == pytest.approx(expected, abs=2e-3)
    assert probe.metrics(seen)["probe_accuracy"] == pytest.approx(best.score(x, y), abs=0.02)


@pytest.mark.parametrize("multi_label", [False, True])
def test_its_metric_is_the_one_of_the_reports(multi_label):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).round(1).astype(np.float32)  # with ties
    labels = (rng.random((50, 4)) < 0.3).astype(np.float32) if multi_label else np.eye(4)[rng.integers(4, size=50)]
    mask = (rng.random((50, 4) if multi_label else (50, 1)) < 0.8).astype(np.float32) * np.ones((50, 4))
    if multi_label:
        labels[:, 3] = 0  # a finding that this batch has none of
    watched = {"probe_logits": logits, "probe_labels": labels, "probe_mask": mask}
    name = "auroc" if multi_label else "accuracy"
    found = jax.jit(LinearProbe(4, multi_label).metrics)(watched)
    assert found[f"probe_{name}"] == pytest.approx(METRICS.get(name)(logits, labels, mask).value, abs=1e-6)
    unknown = jax.jit(LinearProbe(4, multi_label).metrics)(watched | {"probe_mask": 0 * mask})
    assert np.isnan(unknown[f"probe_{name}"])


def test_no_gradient_goes_back_to_the_features():
    features, labels = examples()
    probe = LinearProbe(3, multi_label=False)
    state = jax.tree.map(lambda x: x + 0.1, probe.init(6))
    gradient = jax.grad(lambda f: probe.update(state, f, labels, np.ones_like(labels))[1])(jnp.asarray(features))
    assert not gradient.any()


def stepped(dataset, online_probe, devices=8, count=3):
    """Some steps by hand; returns the states after each, and what was observed of the last."""
    config = pretraining(dataset, online_probe=online_probe)
    mesh = sharding.make_mesh(devices)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    probe = online.linear_probe(config, parts)
    state = train.initial_state(config, parts, objective, tx, recipe)
    requires = objective.requires | online.NEEDS
    stage = compiled_prepare(requires, parts.adapter, recipe, mesh)
    step = compiled_step(objective, tx, mesh, probe=probe)
    states = []
    for i, batch in zip(range(count), train.train_batches(parts.split, seed=0, batch_size=16)):
        batch = {k: batch[k] for k in ("image", "labels", "label_mask")}
        state, metrics = step(state, stage(sharding.put_batch(batch, mesh), 0, i), 0)
        states.append(jax.device_get(state))
    watched = metrics["watched"]
    return states, watched, compiled_observe(mesh, probe)(watched)


@pytest.fixture(scope="module")
def with_probe(ct_dataset):
    return stepped(ct_dataset, True)


def test_the_pretraining_is_the_same_bit_for_bit_with_and_without(ct_dataset, with_probe):
    for ours, theirs in zip(with_probe[0], stepped(ct_dataset, False)[0]):
        for name in ("step", "params", "model_state", "objective_state", "opt_state"):
            jax.tree.map(np.testing.assert_array_equal, getattr(ours, name), getattr(theirs, name))
        assert theirs.aux == {}
    weights = [state.aux["online_probe"]["params"]["weights"] for state in with_probe[0]]
    assert not np.array_equal(weights[0], weights[1])  # while the probe is trained


def test_what_is_watched_stays_on_its_devices_and_is_the_same_on_one(ct_dataset, with_probe):
    _, watched, observed = with_probe
    assert set(watched) == {"embedding", "probe_logits", "probe_labels", "probe_mask"}
    for array in watched.values():
        assert array.addressable_shards[0].data.shape[0] == array.shape[0] // 8
    _, _, on_one = stepped(ct_dataset, True, devices=1)
    assert set(observed) == set(on_one)
    for name, value in observed.items():
        assert value == pytest.approx(float(on_one[name]), rel=2e-3, abs=1e-3), name


def test_a_run_shows_both_and_goes_on_bit_for_bit(ct_dataset, tmp_path):
    knn = dict(every=3, split="val", examples=50)
    config = pretraining(ct_dataset, average=0.5, log_every=1, knn=knn, checkpoint=dict(every=2, keep=3))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train.run(config, whole)
    shutil.copytree(whole / "checkpoints" / "2", resumed / "checkpoints" / "2")
    train.run(config, resumed)
    record = ledger.read_run(resumed)
    assert record.timings["first_step"] == 2
    ours, theirs = (checkpoint.load_arrays(checkpoint.latest_folder(w))[0] for w in (resumed, whole))
    assert "aux/online_probe/params/weights" in ours
    assert any(name.startswith("aux/average/") for name in ours)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [("knn_accuracy" in r, "knn_auroc" in r) for r in rows] == [(step > 2,) * 2 for step in (1, 2, 3, 4)]
    assert {"probe_loss", "probe_accuracy", "effective_rank", "loss_at_chance", "alignment"} <= set(rows[0])
    of_values = [
        {k: v for k, v in r.items() if "share" not in k and "seconds" not in k and k != "examples_per_s"} for r in rows
    ]
    again = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert [r | v for r, v in zip(again, of_values[2:])] == again  # losses, monitors, probe and neighbours
    shares = record.timings["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(record.timings["seconds"].values()) == pytest.approx(record.timings["total_s"])
    assert shares["evaluation"] > 0


def test_the_best_step_by_neighbours_stays_and_can_be_handed_on(ct_dataset, tmp_path, monkeypatch):
    told = iter([0.3, 0.9, 0.5, 0.4])
    monkeypatch.setattr(online.Neighbours, "metrics", lambda self, state: {"knn_accuracy": next(told)})
    knn = dict(every=1, split="val", examples=50)
    config = pretraining(ct_dataset, knn=knn, judged_weights="best", checkpoint=dict(every=100, keep=1))
    train.run(config, tmp_path)
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == ["2", "4"]
    assert ledger.read_run(tmp_path).record["best"] == {"step": 2, "value": 0.9}
    assert "@2-" in starts.find_start(str(tmp_path)).id


def in_order(accumulate):
    """What a loss hands out of a batch of 16 in so many parts."""

    @dataclasses.dataclass(frozen=True)
    class Mean:
        def loss(self, params, state, batch, rng):
            x = batch["image"][:, None] * params["w"]
            return x.mean(), LossAux({}, {}, {}, features=x, embedding=2 * x)

        def after_update(self, state):
            return state.params, state.objective_state

        def weight(self, batch, rng):
            return jnp.float32(len(batch["image"]))

    state = TrainState(jnp.int32(0), {"w": jnp.ones(3)}, {}, {}, optax.sgd(0.1).init({"w": jnp.ones(3)}), {})
    batch = {"image": jnp.arange(48.0).reshape(16, 3)}
    _, metrics = train_step(state, batch, 0, objective=Mean(), tx=optax.sgd(0.1), accumulate=accumulate)
    return metrics["watched"]["embedding"]


def test_parts_of_a_batch_hand_out_the_rows_in_order():
    np.testing.assert_array_equal(in_order(1), 2 * np.arange(48.0).reshape(16, 1, 3))
    np.testing.assert_array_equal(in_order(4), in_order(1))


def test_neighbours_are_those_of_the_probe_of_frozen_features(ct_dataset):
    config = pretraining(ct_dataset, knn=dict(every=1, split="val", examples=10_000))
    parts = assemble(config)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    found = online.Neighbours(config, parts, objective).metrics(state)
    features, labels, masks = {}, {}, {}
    for split in (parts.split, open_split(ct_dataset, "val")):
        features[split.name] = evaluators.extract_features(
            parts.backbone,
            state.params["backbone"],
            state.model_state["batch_stats"]["backbone"],
            split,
            adapter=parts.adapter,
            batch_size=16,
            mesh=parts.mesh,
        )
        labels[split.name], masks[split.name] = split.all_labels()
    scores = probes.knn_scores(features["train"], labels["train"], features["val"])
    for name in ("accuracy", "auroc"):
        expected = METRICS.get(name)(scores, labels["val"], masks["val"]).value
        assert found[f"knn_{name}"] == pytest.approx(expected)


def test_a_bounded_number_of_examples_is_read(ct_dataset):
    config = pretraining(ct_dataset, knn=dict(every=1, split="val", examples=21))
    parts = assemble(config)
    neighbours = online.Neighbours(config, parts, make_objective(config, parts))
    sample = neighbours._train
    assert len(sample) == len(set(sample.rows.tolist())) == 21
    batch = sample.allocate(2)
    sample.read_into(batch, 0, [3, 20])
    for row, index in enumerate((3, 20)):
        assert batch["index"][row] == sample.rows[index]
        np.testing.assert_array_equal(batch["labels"][row], sample.all_labels()[0][index])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(knn=dict(every=1, split="test", examples=50)), "config.knn.split is the test split"),
        (dict(knn=dict(every=1, split="vla", examples=50)), 'did you mean "val"'),
        (dict(knn=dict(every=1, split="val", examples=20)), "more than 20 labelled examples of split 'train'; got 20"),
        (dict(knn=dict(every=-1, split="val", examples=20)), "config.knn"),
    ],
)
def test_what_makes_no_sense_is_refused(ct_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.run(pretraining(ct_dataset, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [(dict(), "online_probe"), (dict(online_probe=False, knn=dict(every=1, split="val", examples=50)), "knn.every")],
)
def test_a_dataset_without_labels_is_refused(ct_dataset, tmp_path, changes, name):
    dataset = tmp_path / "dataset"
    shutil.copytree(ct_dataset, dataset)
    card = json.loads((dataset / "card.json").read_text())
    (dataset / "card.json").write_text(json.dumps(card | {"task": "none", "labels": []}))
    with pytest.raises(UserError, match=f"config.{name} needs labels, and split 'train'") as caught:
        train.run(pretraining(dataset, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_run_that_is_trained_by_labels_is_refused(ct_dataset, tmp_path):
    config = tiny.config("configs/finetune/classification.py", "smoke,scratch,size=24", ct_dataset, online_probe=True)
    with pytest.raises(UserError, match="watches a pretraining, and objective 'classification' is trained by labels"):
        train.run(config, tmp_path / "run")
