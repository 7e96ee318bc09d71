"""A fine-tuned model on new images: the scores that it was judged with, by the same rules; and on another site."""

import csv
import json
import shutil

import cv2
from ml_collections import ConfigDict
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.build import build
from data_prep.phantom import write_ct
from data_prep.raw import look
from radnet_jax import checkpoint, external, predict, probe, sharding, train, trained, trees
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.main import load_config
from tests.tiny import ROOT, TAGS, change, config

FINE_TUNE = "configs/finetune/classification.py"


@pytest.fixture(scope="module")
def fine_tuned(ct_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tuned")
    tags = TAGS | dict(fraction=1.0, start="scratch")
    resolved = config(FINE_TUNE, "scratch,smoke,size=24", ct_dataset, total_steps=4, tags=tags, average=0.5)
    train.run(resolved, folder)
    return folder


def settings(**changes):
    out = load_config(ROOT / "configs" / "predict.py").to_dict() | dict(batch_size=16)
    changes["external"] = out["external"] | changes.get("external", {})
    return ConfigDict(out | changes).lock()


def scores_by_file(folder, out):
    """Scores of new images as (file hash, frame) -> row."""
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if n.startswith("score_")]
    return {(r["image"], int(r["frame"])): [float(r[n]) for n in names] for r in rows if not r["rejected"]}


def test_new_files_get_the_scores_that_the_run_was_judged_with(fine_tuned, ct_dataset, tmp_path):
    predict.run(settings(of=str(fine_tuned), images=str(ct_dataset.parent / "source")), tmp_path)
    new = np.array(sorted(scores_by_file(None, tmp_path).values()))
    known = ledger.read_run(fine_tuned).predictions.scores
    assert len(new) == 144
    for row in known:  # each judged image is among the new ones, with the same scores
        assert np.abs(new - row).max(axis=1).min() < 1e-5
    used = json.loads((tmp_path / "predict.json").read_text())
    assert used["run_id"] == ledger.read_run(fine_tuned).run_id
    assert used["images"] == 144


def test_no_name_of_a_file_is_told_unless_asked(fine_tuned, ct_dataset, tmp_path):
    source = tmp_path / "DOE^JANE"
    source.mkdir()
    first = next(p for p in (ct_dataset.parent / "source").rglob("*.dcm"))
    shutil.copy(first, source / "DOE^JANE.dcm")
    (source / "notes.txt").write_text("Jane Doe")
    predict.run(settings(of=str(fine_tuned), images=str(source)), tmp_path / "out")
    told = "".join(p.read_text() for p in (tmp_path / "out").glob("*.*"))
    assert "DOE" not in told
    assert look(first).sha256[:16] in told
    predict.run(settings(of=str(fine_tuned), images=str(source), names="paths", format="parquet"), tmp_path / "paths")
    table = pq.read_table(tmp_path / "paths" / "predictions.parquet").to_pydict()
    assert dict(zip(table["image"], table["rejected"])) == {"DOE^JANE.dcm": "", "notes.txt": "not_dicom"}
    assert [s is None for s in table["score_thorax"]] == [False, True]


def test_a_file_whose_pixels_are_broken_has_a_reason_and_no_scores(fine_tuned, ct_dataset, tmp_path):
    first, second = sorted((ct_dataset.parent / "source").rglob("*.dcm"))[:2]
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(first.read_bytes()[:-100])
    shutil.copy(second, folder / "b.dcm")
    predict.run(settings(of=str(fine_tuned), images=str(folder), names="paths"), tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = {r["image"]: r for r in csv.DictReader(file)}
    assert rows["a.dcm"]["rejected"]
    assert rows["a.dcm"]["score_thorax"] == ""
    assert rows["b.dcm"]["score_thorax"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(images=""), "one of two is needed"),
        (dict(names="path"), "config.names"),
        (dict(images="/nowhere"), "no images at"),
        (dict(external=dict(dir="x", site="", labels=()), images=""), "external.site is missing"),
    ],
)
def test_wrong_settings_are_refused(fine_tuned, ct_dataset, tmp_path, changes, message):
    asked = dict(of=str(fine_tuned), images=str(ct_dataset.parent / "source")) | changes
    with pytest.raises(UserError, match=message):
        predict.run(settings(**asked), tmp_path)


def test_images_of_another_kind_are_refused(fine_tuned, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(UserError, match=r"no image of CT.*1 no_hu"):
        predict.run(settings(of=str(fine_tuned), images=str(tmp_path)), tmp_path / "out")


def test_a_run_without_a_head_is_refused(fine_tuned, tmp_path):
    record = json.loads((fine_tuned / "run.json").read_text()) | {"kind": "linear_probe"}
    shutil.copytree(fine_tuned, tmp_path / "probe")
    (tmp_path / "probe" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="can't be used on new images"):
        trained.load(tmp_path / "probe", sharding.make_mesh())


@pytest.mark.parametrize("weights", ["last", "average"])
def test_the_weights_are_those_that_were_judged(fine_tuned, tmp_path, weights):
    record = json.loads((fine_tuned / "run.json").read_text())
    shutil.copytree(fine_tuned, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"weights": weights}))
    mesh = sharding.make_mesh()
    model = trained.load(tmp_path / "run", mesh)
    arrays, _ = checkpoint.load_arrays(checkpoint.latest_folder(fine_tuned))
    prefix = {"last": "", "average": "aux/average/"}[weights]
    for name, leaf in trees.named_leaves(model.params):
        assert np.array_equal(leaf, arrays[f"{prefix}params/{name}"])


LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], np.float32)
MASK = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 0]], np.float32)


def test_labels_of_another_site_stand_for_ours():
    mapping = {"effusion": "fluid", "empyema": "fluid", "mass": "mass"}
    labels, mask = external.relabel(
        LABELS, MASK, ("effusion", "empyema", "mass"), ("mass", "fluid", "hernia"), mapping, "multi_label"
    )
    # Fluid is either of two, unknown where one is unknown and the other absent; of hernia nobody says anything.
    assert mask.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert (labels * mask).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_cases_of_a_class_that_stands_for_none_of_ours_are_left_out():
    one_hot, known = np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32)
    labels, mask = external.relabel(one_hot, known, ("a", "b", "c"), ("x", "y"), {"a": "y", "b": "x"}, "single_label")
    assert labels[:2].tolist() == [[0, 1], [1, 0]]
    assert mask.tolist() == [[1, 1], [1, 1], [0, 0]]


@pytest.fixture(scope="module")
def another_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_ct(folder / "source", patients_per_region=3, slices=2, image_size=32, seed=7)
    build("radnet", folder / "source", folder / "dataset", size=24)
    return folder / "dataset"


def test_another_site_is_one_more_column_of_the_report(fine_tuned, another_site, tmp_path):
    labels = [(name, name) for name in open_split(another_site, "test").card.labels]
    where = dict(dir=str(another_site), site="elsewhere", labels=tuple(labels))
    shutil.copytree(fine_tuned, tmp_path / "runs" / "own")
    predict.run(settings(of=str(fine_tuned), external=where), tmp_path / "runs" / "elsewhere")
    runs = ledger.read_runs(tmp_path / "runs")
    assert {r.task for r in runs} == {"body_region", "body_region at elsewhere"}
    there = next(r for r in runs if r.task != "body_region")
    assert len(there.predictions) == 36
    assert set(there.predictions.split) == {"test"}
    assert there.metrics["test"]["accuracy"]["value"] == pytest.approx(
        np.mean(there.predictions.scores.argmax(1) == there.predictions.labels.argmax(1))
    )
    assert not any(name.startswith("dice") for name in there.metrics["test"])  # which would be means of scores
    groups = compare(runs, n_resamples=200).groups
    assert {(g.task, g.n_cases) for g in groups} >= {("body_region at elsewhere", 36)}


@pytest.fixture(scope="module")
def probed(fine_tuned, ct_dataset, tmp_path_factory):
    """Probes of one start by their name."""
    folder, found = tmp_path_factory.mktemp("probed"), {}
    for name in ("linear", "ridge", "knn"):
        variant = f"smoke,probe={name}"
        asked = config("configs/finetune/body_region.py", variant, ct_dataset, init_from=str(fine_tuned))
        cached = asked.probe.to_dict() | dict(cache_dir=str(folder / "features"))
        found[name] = probe.run(change(asked, probe=cached), folder / name)
    return found


def validated(run, start, dataset, workdir):
    labels = tuple((name, name) for name in open_split(dataset, "test").card.labels)
    where = dict(dir=str(dataset), site="elsewhere", labels=labels, start=str(start))
    predict.run(settings(of=str(run), external=where), workdir)
    return ledger.read_run(workdir)


@pytest.mark.parametrize("name", ["linear", "ridge"])
def test_a_linear_probe_is_judged_at_another_site(probed, fine_tuned, ct_dataset, tmp_path, name):
    own, there = ledger.read_run(probed[name]), validated(probed[name], fine_tuned, ct_dataset, tmp_path)
    assert there.task == "body_region at elsewhere"
    found = dict(zip(there.predictions.case_id, there.predictions.scores))
    assert set(own.predictions.case_id) < set(found)
    for case, row in zip(own.predictions.case_id, own.predictions.scores):
        np.testing.assert_allclose(found[case], row, atol=1e-4)


def test_what_a_probe_can_not_be_judged_with_is_refused(probed, fine_tuned, ct_dataset, tmp_path):
    shutil.copytree(probed["linear"], tmp_path / "other")
    record = json.loads((tmp_path / "other" / "run.json").read_text()) | {"checkpoint": "another@4-00000000"}
    (tmp_path / "other" / "run.json").write_text(json.dumps(record))
    for run, start, message in (
        (probed["linear"], "", "needs its start"),
        (probed["knn"], fine_tuned, "got knn; expected a fine-tuning"),
        (tmp_path / "other", fine_tuned, "is not the start of probe.*expected another@4"),
    ):
        with pytest.raises(UserError, match=message):
            validated(run, start, ct_dataset, tmp_path / "out")
    assert not ledger.is_finished(tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "no label mapping"),
        ((("thoraks", "thorax"),), 'did you mean "thorax"'),
        ((("thorax", "torax"),), 'the model has no label .*did you mean "thorax"'),
        ((("thorax", "thorax"),), "one class is left"),
        (("thorax", "thorax"), "pairs"),
    ],
)
def test_a_label_mapping_that_does_not_fit_is_refused(fine_tuned, another_site, tmp_path, labels, message):
    where = dict(dir=str(another_site), site="elsewhere", labels=labels)
    with pytest.raises(UserError, match=message):
        predict.run(settings(of=str(fine_tuned), external=where), tmp_path)
    assert not ledger.is_finished(tmp_path)
