"""What a run refuses before it trains, in one line: nothing is computed, and no workdir is left."""

import json
import shutil

import pytest

from radnet_jax import records, sharding, train
from radnet_jax.errors import UserError
from radnet_jax.parts import assemble, make_objective
from tests import tiny
from tests.tiny import fine_tuning, pretraining


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=12), "can't be divided over the devices"),
        (dict(log_every=0), "config.log_every; got 0; expected at least 1"),
        (dict(checkpoint=dict(every=0, keep=1)), "config.checkpoint.every"),
        (dict(seed=5_000_000_000), "config.seed"),
        (dict(total_steps=0), "config.total_steps"),
        (dict(objective=dict(name="simclr", temperature=0.0)), "temperature"),
        (dict(batch_size=8000), "smaller than one batch"),
        (dict(eval_batch_size=100), "eval_batch_size can't be divided"),
        (dict(objective=dict(name="simcrl")), 'did you mean "simclr"'),
        (dict(objective=dict(name="simclr", temprature=1)), 'did you mean "temperature"'),
        (dict(backbone=dict(name="resnet81")), 'did you mean "resnet18"'),
        (
            dict(backbone=dict(name="vit_tiny", base_width=4)),
            "of another backbone than 'vit_tiny'; got base_width; give",
        ),
        (dict(optimizer=dict(name="adam")), 'did you mean "adamw"'),
        (dict(augment=dict(name="simclr")), "changes colours"),
        (dict(input=None), "config.input is missing"),
        (dict(init_from="nowhere"), "no checkpoint in nowhere"),
        (dict(schedule=dict(name="constant", base_lr=-0.1)), "config.schedule.base_lr; got -0.1"),
        (dict(schedule=dict(name="constant", base_lr=float("nan"))), "config.schedule.base_lr; got nan"),
        (dict(optimizer=dict(name="adamw", b1=2.0)), "optimizer: b1; got 2.0; expected 0 or more, less than 1"),
        (dict(optimizer=dict(name="sgd", rates="stem")), "optimizer: rates; got 'stem'"),
        (dict(optimizer=dict(name="sgd", layer_decay="half")), "layer_decay; got half"),
    ],
)
def test_bad_input_is_refused_before_training(ct_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train.run(pretraining(ct_dataset, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_pretraining_is_not_judged(ct_dataset, tmp_path):
    config = pretraining(ct_dataset)
    config = tiny.change(config, data=config.data.to_dict() | {"judge": ("test",)})
    with pytest.raises(UserError, match=r"'simclr' has no head that could be judged; got \('test',\); set it to \(\)"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_does_not_fit_the_task_is_refused(ct_dataset, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(ct_dataset, dataset)
    card = json.loads((dataset / "card.json").read_text())
    (dataset / "card.json").write_text(json.dumps(card | {"task": "multi_label"}))
    config = fine_tuning(dataset)
    parts = assemble(config)
    with pytest.raises(UserError, match=r"'accuracy' is not defined for a multi_label task.*auroc"):
        records.check_judged(config, parts)
    with config.unlocked():
        config.primary_metric = "label_brier"
    with pytest.raises(UserError, match="'label_brier' is an error"):
        records.check_judged(config, parts)


def test_a_missing_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no dataset in .*data_prep.build"):
        train.run(pretraining(tmp_path / "none"), tmp_path / "run")


def test_a_workdir_that_cannot_be_written_is_refused(ct_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        train.run(pretraining(ct_dataset), tmp_path / "file" / "run")


def test_a_full_disk_is_refused(ct_dataset, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(UserError, match="not enough room"):
        train.run(pretraining(ct_dataset), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(judged_weights="best"), "config.select.every is 0"),
        (dict(judged_weights="averge"), 'did you mean "average"'),
        (dict(select=dict(every=1, split="test")), "is the test split"),
        (dict(select=dict(every=1, split="vla")), 'did you mean "val"'),
        (dict(average=1.0), "config.average"),
        (dict(accumulate=3), "a multiple of 24"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(ct_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.run(fine_tuning(ct_dataset, **changes), tmp_path / "run")


def test_local_views_are_for_objectives_that_use_them(ct_dataset, tmp_path):
    with pytest.raises(UserError, match="'simclr' has no use for local views"):
        train.run(pretraining(ct_dataset, augment=dict(name="ct", local_views=2)), tmp_path / "run")


def test_a_batch_of_one_is_for_losses_that_are_means(ct_dataset):
    config = pretraining(ct_dataset, batch_size=1)
    parts = assemble(config, sharding.make_mesh(1))
    with pytest.raises(UserError, match=r"'simclr' compares the examples of a batch.*got config.batch_size=1"):
        make_objective(config, parts)
    grouped = pretraining(ct_dataset, batch_size=8, groups=8)
    with pytest.raises(UserError, match=r"got config.batch_size=8 in 8 groups; expected at least 16"):
        make_objective(grouped, parts)
    make_objective(pretraining(ct_dataset, batch_size=1, objective=dict(name="insdis")), parts)


def test_parts_of_a_batch_are_for_losses_that_are_means(ct_dataset, tmp_path):
    with pytest.raises(UserError, match="needs the whole batch at once"):
        train.run(pretraining(ct_dataset, accumulate=2), tmp_path / "run")
