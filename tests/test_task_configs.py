"""The configs of downstream tasks: variants, published numbers, refusals; subsets and probes of one end to end."""

import json

import numpy as np
import pytest

from radnet_jax import probe, train
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, check_names, make_tx
from radnet_jax.sharding import make_mesh
from tests import tiny

TASKS = {
    "body_region": ("published", "published_linear"),
    "imagenet": ("published", "published_linear"),
    "chestxray14": ("published", "published_radnet", "published_radnet_linear"),
    "chexpert": ("published",),
    "shenzhen": ("published",),
    "vindr_cxr": ("published",),
    "rsna_pe": ("published",),
}
CASES = [(task, p) for task, published in TASKS.items() for p in ("corrected", *published)]


def load(task, variant=""):
    return load_config(tiny.ROOT / "configs" / "finetune" / f"{task}.py", variant)


@pytest.mark.parametrize(("task", "protocol"), CASES)
def test_each_task_has_each_protocol(task, protocol):
    for more in ("", ",scratch", ",smoke"):
        config = load(task, f"protocol={protocol}{more}")
        check_names(config, make_mesh(1))
        assert config.is_locked
        assert config.tags.task.startswith(task)
        assert config.tags.protocol == ("fine_tune" if protocol == "corrected" else f"fine_tune_{protocol}")
        assert config.data.judge == ("val", "test")
        assert (config.input is None) == (more != ",scratch")
        assert config.dataset_command.startswith("python -m data_prep.build --dataset=")
    assert load(task, "fraction=0.1").tags.fraction == load(task, "fraction=0.1").data.subset.fraction == 0.1
    for name, kind in (("linear", "linear_probe"), ("ridge", "linear_probe"), ("knn", "knn")):
        config = load(task, f"probe={name},shots=5")
        assert (config.run, config.tags.kind, config.data.subset.shots) == ("probe", kind, 5)


def test_published_radnet_rates_decay_by_epoch():
    config = load("body_region", "protocol=published")
    assert (config.batch_size, config.total_steps, config.groups) == (4096, 30_000, 8)
    _, schedule = make_tx(config)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 299, 300, 29_999)], [0.01, 0.01, 0.0097, 0.01 * 0.97**99], 1e-5
    )
    small = load("imagenet", "protocol=published,classes=10,fraction=0.01")
    assert (small.optimizer.name, small.batch_size, small.schedule.base_lr) == ("adamw", 64, 1e-4)
    frozen = load("chestxray14", "protocol=published_radnet_linear")
    assert frozen.optimizer.frozen == (r"backbone/.*kernel$",)
    assert sum(frozen.objective.class_weights) == pytest.approx(14.001)


def test_published_benchmark_follows_the_loss_of_val():
    config = load("chexpert", "protocol=published,scratch")
    assert (config.select_by, config.judged_weights, config.batch_size) == ("loss", "best", 32)
    assert (config.plateau.patience, config.plateau.stop, config.plateau.factor) == (5, 10, 0.5)
    assert (config.views.select, config.views.judge) == ("center_crop", "ten_crop")
    assert config.objective.uncertain == (0.55, 0.85)
    assert len(config.data.judged_labels) == 5
    assert config.total_steps == 1000 * config.select.every
    assert config.input.mean == (0.485, 0.456, 0.406)


def test_a_published_chain_goes_through_all_views_of_chexpert():
    adapted = load_config(tiny.ROOT / "configs" / "adapt.py", "source=chexpert,protocol=published")
    assert adapted.dataset_command == load("chexpert", "protocol=published").dataset_command
    assert adapted.select.every == load("chexpert", "protocol=published").select.every
    assert load("shenzhen", "protocol=published").select.every == 15  # 463 images by 32: the last batch has 15


@pytest.mark.parametrize(
    ("task", "variant", "message"),
    [
        ("shenzhen", "protocol=publishd", 'unknown protocol .*did you mean "published"'),
        ("shenzhen", "protocol=published_radnet", "expected one of corrected, published$"),
        ("shenzhen", "probe=liner", 'unknown probe .*did you mean "linear"'),
        ("shenzhen", "probe=knn,protocol=published", "no published protocol"),
        ("shenzhen", "shots=5,fraction=0.1", "either a fraction or shots"),
        ("shenzhen", "scratch,crossing", "leave out crossing"),
        ("body_region", "protocol=published,fraction=0.5", "no such label budget.*fraction 1, 0.1"),
        ("body_region", "protocol=published,shots=5", "no such label budget; got 5 shots"),
        ("imagenet", "classes=20", "unknown number of classes"),
    ],
)
def test_refusals(task, variant, message):
    with pytest.raises(UserError, match=message):
        load(task, variant)


def run(dataset, workdir, variant, **changes):
    config = tiny.config("configs/finetune/body_region.py", f"smoke,scratch,size=24{variant}", dataset, **changes)
    (probe.run if config.run == "probe" else train.run)(config, workdir)
    return ledger.read_run(workdir)


@pytest.mark.parametrize("kind", ["linear", "ridge", "knn"])
def test_probes_of_label_budgets_share_one_pass_of_features(ct_dataset, tmp_path, kind):
    cache = dict(load("body_region", f"probe={kind},smoke,scratch").probe.to_dict(), cache_dir=str(tmp_path / "cache"))
    whole = run(ct_dataset, tmp_path / "whole", f",probe={kind}", probe=cache)
    files = sorted(p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir())
    assert len(files) == 3
    few = run(ct_dataset, tmp_path / "few", f",probe={kind},shots=2", probe=cache)
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()) == files
    assert few.record["dataset"]["train_records"] == 12
    assert whole.record["dataset"]["train_records"] == len(open_split(ct_dataset, "train"))
    assert few.run_id != whole.run_id
    alone = run(ct_dataset, tmp_path / "alone", f",probe={kind},shots=2")
    # Batches of another size round otherwise, which a weak penalty on 12 examples makes visible.
    np.testing.assert_allclose(alone.predictions.scores, few.predictions.scores, atol=0.02)


def test_few_shots_are_trained_on_alone_whatever_the_batch(ct_dataset, tmp_path):
    none = dict(field="", candidates=())
    record = run(ct_dataset, tmp_path / "run", ",shots=1", sweep=none, total_steps=2).record
    assert record["dataset"]["train_records"] == 6  # fewer than a batch of 16
    assert record["protocol"] == "fine_tune_1_shots"


def test_a_missing_dataset_says_how_it_is_built(tmp_path):
    for folder, message in ((tmp_path / "none", "no dataset in"), ("", "config.data.dir is missing")):
        config = tiny.config("configs/finetune/shenzhen.py", "smoke,scratch", folder)
        with pytest.raises(UserError, match=message + r".*build it: python -m data_prep.build --dataset=shenzhen"):
            assemble(config)


def test_a_class_that_is_missing_in_train_is_refused(ct_dataset, tmp_path, monkeypatch):
    from radnet_jax import records
    from radnet_jax.data.labels import Counts

    monkeypatch.setattr(records, "count_labels", lambda split: Counts(split.card.labels, (1, 1, 0, 1, 1, 1), (5,) * 6))
    for variant in ("", ",probe=linear"):
        config = tiny.config("configs/finetune/body_region.py", f"smoke,scratch,size=24{variant}", ct_dataset)
        strict = tiny.change(config, data=config.data.to_dict() | dict(missing_classes="refuse"))
        with pytest.raises(UserError, match=r"1 of 6 classes are missing in split 'train'; got no .* abdomen"):
            (probe.run if config.run == "probe" else train.run)(strict, tmp_path / "run")
    assert not json.loads(json.dumps([str(p) for p in (tmp_path / "run").glob("run.json")]))
