"""Runs of segmentation from built miniatures to comparisons; the configs of all tasks and their published numbers."""

import os
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from data_prep.build import build
from data_prep.miniatures import write_miniature
from radnet_jax import examples, overlays, train
from radnet_jax.data.card import read_card
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx, plain
from radnet_jax.preprocessing import ModelInput
from tests import tiny
from tests.evaluation.simulated import record

DATASETS = {
    "lits": "lits",
    "brats": "brats",
    "siim_acr": "siim_acr",
    "montgomery": "montgomery",
    "drive": "drive",
    "scr": "jsrt",
    "busi": "busi",
}
VARIANTS = ("scratch", "scratch,frozen", "protocol=published,scratch", "protocol=published,scratch,frozen")
SIZE = 32


def built(root, name, source=""):
    folder = root / (source or name)
    if not folder.exists():
        write_miniature(source or name, root / f"{source or name} source")
        build(name, root / f"{source or name} source", folder, size=SIZE, log=lambda line: None)
    return folder


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


@pytest.fixture(scope="module")
def lits(datasets):
    return built(datasets, "lits")


def configured(task, variant, dataset, **changes):
    loaded = load_config(tiny.ROOT / f"configs/finetune/{task}.py", f"smoke,size={SIZE},{variant}")
    loaded = tiny.change(loaded, data=loaded.data.to_dict() | {"dir": str(dataset)})
    return tiny.change(loaded, **{"total_steps": 3, "batch_size": 8, **changes})


@pytest.fixture(scope="module")
def tumours(lits, tmp_path_factory):
    """A finished run of LiTS, on volumes of eight slices."""
    config = configured("lits", "scratch", lits, backbone=dict(name="resnet10", base_width=4), average=0.0)
    workdir = tmp_path_factory.mktemp("lits run")
    train.run(config, workdir)
    return ledger.read_run(workdir)


def test_a_run_is_judged_by_volumes(tumours, lits):
    record, p = tumours.record, tumours.predictions
    assert (record["task_kind"], record["label_names"]) == ("segmentation", ["liver", "tumour"])
    assert record["primary_metric"] == "dice_per_volume"
    assert read_card(lits).splits["test"] == 8  # slices of one volume
    assert p.masks.shapes == ((8, SIZE, SIZE),) * 2  # one of val, one of test
    assert {len(of) for of in (p.of("val"), p.of("test"))} == {1}
    found = record["metrics"]["test"]
    test = p.of("test")
    assert found["dice_per_volume"]["value"] == pytest.approx(np.nanmean(test.scores), abs=1e-6)
    assert {"dice_lits_per_case", "dice_pooled", "dice_per_slice", "hd95_per_volume", "lesion_f1_pooled"} <= set(found)
    assert set(record["metrics_of_weights"]) == {"last", "best"}
    truth = np.stack([open_split(lits, "test")[i]["segmentation"] for i in range(8)])
    assert test.masks.cases.truth[0].tolist() == [np.sum(truth > 0), np.sum(truth == 2)]  # the liver has its tumours
    predicted = test.masks.mask(0)
    assert test.masks.cases.predicted[0, 0] == np.count_nonzero(predicted)
    assert test.facts["orientation"] == open_split(lits, "test").manifest()["orientation"].to_pylist()[:1]


def test_overlays_show_truth_and_prediction(tumours, lits):
    ((caption, png),) = overlays.overlays(tumours, open_split(lits, "test"))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert min(image.shape[:2]) >= 384
    assert (image == overlays.TRUTH).all(axis=-1).any()
    assert caption.startswith("test, case 1 of 1 by Dice (slice ")
    row = open_split(lits, "test").manifest().to_pylist()[0]
    assert not any(str(row[name]) in caption for name in ("case_id", "patient", "series"))
    with pytest.raises(UserError, match="was not judged on split 'train'"):
        overlays.overlays(tumours, open_split(lits, "train"))


def test_a_report_shows_volumes_by_their_largest_slice(tumours, lits):
    p = tumours.predictions.of("test")
    seen = ModelInput.from_json(tumours.record["adapter"]["model_input"])
    number, mask = p.masks.largest(0)
    assert number == np.argmax([np.count_nonzero(open_split(lits, "test")[i]["segmentation"]) for i in range(8)])
    (png,) = examples.of_cases({"lits": (str(lits), seen)}, "lits", [str(p.case_id[0])], [(number, mask)])
    (_, want), *_ = overlays.overlays(tumours, open_split(lits, "test"))
    assert png == want


def test_outlines_lie_where_the_masks_are():
    image, truth, predicted = np.zeros((48, 48, 1)), np.zeros((48, 48), np.uint8), np.zeros((48, 48), np.uint8)
    truth[10:20, 10:20], truth[:, 40:], predicted[30:40, 30:38] = 1, 255, 2
    png = overlays.draw(image, truth, predicted)
    seen = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    scale = len(seen) // 48
    for colour, box in ((overlays.TRUTH, (10, 20, 10, 20)), (overlays.PREDICTION, (30, 40, 30, 38))):
        rows, columns = np.nonzero((seen == colour).all(axis=-1))
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == tuple(scale * v for v in box)
    assert (seen[0, -1] == 64).all()  # unknown


def test_runs_of_one_task_can_be_compared(tmp_path):
    """A planted difference in Dice is found: patients are resampled, and cases without the region left out."""
    rng = np.random.default_rng(0)
    n = 60
    hard, empty = rng.normal(0, 0.08, (n, 1)), rng.random((n, 2)) < 0.2
    for start, skill in (("ct", 0.8), ("natural", 0.6)):
        for seed in range(4):
            dice = np.clip(skill + hard + rng.normal(0, 0.02, (n, 2)), 0, 1)
            p = Predictions(
                split=np.where(np.arange(n) % 2, "val", "test"),
                case_id=[f"v{i}" for i in range(n)],
                patient=[f"p{i}" for i in range(n)],
                scores=np.where(empty, np.nan, dice),
                labels=(~empty).astype(float),
                label_mask=np.ones((n, 2)),
            )
            own = record(
                f"{start}-{seed}", kind="finetune", task="lits", start=start, seed=seed, task_kind="segmentation"
            )
            own |= {"primary_metric": "dice_per_volume", "label_names": ["liver", "tumour"], "protocol": "fine_tune"}
            ledger.write_run(tmp_path / f"{start}-{seed}", own | {"checkpoint": f"of {start}"}, predictions=p)
    found = compare(ledger.read_runs(tmp_path), n_resamples=500)
    (row,) = found.rows
    assert row.verdict == "ct is better than natural"
    assert row.delta == pytest.approx(0.2, abs=0.03)
    assert found.groups[0].n_patients == 30


@pytest.mark.parametrize("task", DATASETS)
@pytest.mark.parametrize("variant", [*VARIANTS, "crossing", "scratch,backbone=swin_tiny", "scratch,windows"])
def test_every_config_is_sound(task, variant):
    config = load_config(tiny.ROOT / f"configs/finetune/{task}.py", variant)
    assert config.tags.kind == "finetune"
    assert config.tags.task.startswith(task)
    assert "segmentation" not in METRICS.names()
    METRICS.get(config.primary_metric)
    make_tx(config)
    assert bool(config.objective.get("frozen") or "frozen" in config.optimizer) == ("frozen" in variant)
    assert (config.input is None) == ("scratch" not in variant)


def test_published_numbers():
    def of(task, variant="protocol=published,scratch"):
        return plain(load_config(tiny.ROOT / f"configs/finetune/{task}.py", variant))

    lits, brats = of("lits"), of("brats")
    assert (lits["total_steps"], lits["batch_size"], lits["groups"]) == (50 * 277, 128, 8)
    assert lits["objective"]["class_weights"] == [1, 3, 10]
    assert (lits["schedule"]["base_lr"], lits["optimizer"]["weight_decay"]) == (2e-4, 1e-6)
    assert (brats["total_steps"], brats["objective"]["class_weights"]) == (50 * 153, [1, 5, 5, 5])
    assert (brats["schedule"]["base_lr"], brats["optimizer"]["weight_decay"]) == (1e-3, 1e-5)
    assert "jitter" not in lits["augment"]
    assert brats["augment"]["jitter"] == 0
    _, schedule = make_tx(load_config(tiny.ROOT / "configs/finetune/lits.py", "protocol=published,scratch"))
    np.testing.assert_allclose(schedule(277 * 10), 2e-4 * 0.97**10, rtol=1e-5)  # constant within an epoch
    np.testing.assert_allclose(schedule(277 * 11 - 1), 2e-4 * 0.97**10, rtol=1e-5)
    siim, heart, drive = of("siim_acr"), of("scr", "protocol=published,scratch,structure=heart"), of("drive")
    assert (siim["total_steps"], siim["batch_size"], siim["schedule"]["base_lr"]) == (200 * 250, 32, 1e-3)
    assert (siim["objective"]["loss"], siim["objective"]["activation"]) == ("soft_dice", "sigmoid")
    assert (siim["input"]["mean"], siim["input"]["std"]) == ([0.0] * 3, [1.0] * 3)
    assert (heart["schedule"]["base_lr"], heart["optimizer"]["weight_decay"]) == (2e-4, 0.01)
    assert (heart["schedule"]["warmup_steps"], heart["total_steps"]) == (20 * 4, 500 * 4)  # 124 images, the last 28
    photographs = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for images in (heart, drive, of("busi")):  # version 2, and DRIVE in both
        assert (images["input"]["mean"], images["input"]["std"]) == photographs
    assert (drive["batch_size"], drive["objective"]["loss"]) == (16, "binary_cross_entropy")
    assert drive["input"]["size"] == [512, 512]


def test_published_decoders_follow_the_backbone():
    def of(task, variant):
        return load_config(tiny.ROOT / f"configs/finetune/{task}.py", f"protocol=published,{variant}").objective.decoder

    assert of("busi", "scratch").to_dict() == dict(name="unet", kind="btl")
    assert of("busi", "backbone=convnext_base").name == of("siim_acr", "decoder=upernet").name == "upernet"
    with pytest.raises(UserError, match="U-Nets on ResNets; got upernet on swin_tiny"):
        of("lits", "backbone=swin_tiny")


def test_what_a_config_needs_is_said(lits):
    config = configured("lits", "scratch", lits)
    with config.unlocked():
        del config.masks
    with pytest.raises(UserError, match=r"config.masks is missing"):
        train.check(config, assemble(config))
    config = configured("lits", "scratch", lits, primary_metric="accuracy")
    with pytest.raises(UserError, match=r"primary_metric 'accuracy' is not defined for a segmentation task.*dice_"):
        train.check(config, assemble(config))
    config = configured("lits", "scratch", lits)
    config = tiny.change(config, masks=config.masks.to_dict() | {"tolerence": 1.0})
    with pytest.raises(UserError, match=r"config.masks has no argument 'tolerence'.*tolerance"):
        train.check(config, assemble(config))
    with pytest.raises(UserError, match=r"unknown variant"):
        load_config(tiny.ROOT / "configs/finetune/lits.py", "froozen")


def test_the_published_linear_evaluation_trains_the_scales_of_the_backbone(lits):
    """Its convolutions stay, its BatchNorm does not: a defect that defines its figures."""
    variant = "protocol=published,scratch,frozen"
    config = configured("lits", "scratch", lits)
    published = load_config(tiny.ROOT / "configs/finetune/lits.py", variant)
    assert not published.objective.get("frozen")
    config = tiny.change(config, optimizer=published.optimizer.to_dict(), backbone=dict(name="resnet10", base_width=4))
    parts = assemble(config)
    tx, _ = make_tx(config)
    state = train.initial_state(config, parts, make_objective(config, parts), tx, make_recipe(config, parts))
    updates, _ = jax.jit(tx.update)(jax.tree.map(jax.numpy.ones_like, state.params), state.opt_state, state.params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        names = [part.key for part in path]
        assert bool(np.any(update)) == (names[0] == "decoder" or names[-1] != "kernel"), names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "variant"),
    [*((task, "scratch") for task in DATASETS), *((task, VARIANTS[3]) for task in ("lits", "siim_acr"))],
)
def test_every_task_runs_end_to_end(datasets, task, variant, tmp_path):
    png = task == "lits" and "published" in variant
    dataset = built(datasets, DATASETS[task], "lits_png" if png else "")
    words = f"smoke,size={SIZE},{variant}" + (",structure=lungs" if task == "scr" else "")
    # The miniatures have fewer images than there are devices here.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-m", "radnet_jax.main", f"--config=configs/finetune/{task}.py:{words}"]
    command += [f"--config.data.dir={dataset}", f"--workdir={tmp_path / 'run'}"]
    command += ["--config.backbone.name=resnet10", "--config.backbone.base_width=4"]
    subprocess.run(command, env=environment, cwd=tiny.ROOT, check=True, capture_output=True)
    run = ledger.read_run(tmp_path / "run")
    assert run.task_kind == "segmentation"
    assert set(run.metrics) == {"val", "test"}
    assert run.metrics["test"]["dice_pooled"]["value"] is not None
    assert len(run.predictions.masks) > 1
