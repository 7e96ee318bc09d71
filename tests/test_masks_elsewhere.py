"""A trained segmentation where it was not trained: masks of new files from end to end, and another site's dataset."""

import csv
import dataclasses
import json
import shutil

import cv2
from ml_collections import ConfigDict
import nibabel
import numpy as np
import pydicom
import pytest

from data_prep.build import build
from data_prep.ingest.image import unfit_mask
from data_prep.miniatures import write_miniature
from data_prep.phantom import write_ct
from radnet_jax import external, predict, records, train
from radnet_jax.data.card import read_card
from radnet_jax.data.labels import Counts
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger, segmentation
from radnet_jax.evaluation.compare import compare
from radnet_jax.main import load_config
from radnet_jax.parts import assemble
from tests import tiny

SIZE = 32


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    """A built miniature of LiTS, with what it was built from beside it."""
    folder = tmp_path_factory.mktemp("lits")
    write_miniature("lits", folder / "source")
    build("lits", folder / "source", folder / "dataset", size=SIZE, log=lambda line: None)
    return folder / "dataset"


def configured(dataset, **changes):
    loaded = load_config(tiny.ROOT / "configs/finetune/lits.py", f"smoke,scratch,size={SIZE}")
    loaded = tiny.change(loaded, data=loaded.data.to_dict() | {"dir": str(dataset)})
    small = dict(total_steps=6, batch_size=8, average=0.0, backbone=dict(name="resnet10", base_width=4))
    return tiny.change(loaded, **small | changes)


@pytest.fixture(scope="module")
def trained_run(lits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train.run(configured(lits), workdir)
    return workdir


def settings(**changes):
    out = load_config(tiny.ROOT / "configs" / "predict.py").to_dict() | dict(batch_size=16, names="paths")
    changes["external"] = out["external"] | changes.get("external", {})
    return ConfigDict(out | changes).lock()


def counted(out):
    with (out / "predictions.csv").open() as file:
        return {(row["image"], int(row["frame"])): row for row in csv.DictReader(file)}


def test_new_volumes_get_the_masks_that_the_run_was_judged_with(trained_run, lits, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in (lits.parent / "source").rglob("volume-*.nii*"):
        shutil.copy(path, images)
    predict.run(settings(of=str(trained_run), images=str(images)), tmp_path / "out")
    rows, volumes = counted(tmp_path / "out"), {}
    for path in sorted((tmp_path / "out" / "masks").iterdir()):
        source = nibabel.load(next(images.glob(path.name.partition(".")[0] + ".nii*")))
        mask = nibabel.load(path)
        assert mask.shape == source.shape
        np.testing.assert_allclose(mask.affine, source.affine)
        volumes[path.name.partition(".")[0]] = values = np.asarray(mask.dataobj)
        of_file = [row for (name, _), row in rows.items() if name.partition(".")[0] == path.name.partition(".")[0]]
        for k, name in enumerate(("liver", "tumour"), start=1):
            assert sum(int(row[f"pixels_{name}"]) for row in of_file) == (values == k).sum()
    assert any(values.any() for values in volumes.values())
    test = ledger.read_run(trained_run).predictions.of("test")
    known, card = test.masks.mask(0), read_card(lits)
    shape = next(iter(volumes.values())).shape[1::-1]  # NIfTI has x first
    wanted = sorted(unfit_mask(plane, shape, card.stored.resize).sum() for plane in known)
    assert wanted in [sorted(plane.sum() for plane in np.moveaxis(v, -1, 0)) for v in volumes.values()]


def test_series_get_images_or_dicom_segmentations(trained_run, tmp_path):
    write_ct(tmp_path / "series", patients_per_region=1, slices=3, image_size=48)
    asked = dict(of=str(trained_run), images=str(tmp_path / "series"))
    predict.run(settings(**asked), tmp_path / "png")
    rows = counted(tmp_path / "png")
    masks = {p.relative_to(tmp_path / "png" / "masks"): p for p in (tmp_path / "png" / "masks").rglob("*.png")}
    assert len(masks) == len(rows) == 18
    pngs = {}
    for name, path in masks.items():
        own = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert own.shape == (48, 48)
        row = rows[str(name.with_suffix(".dcm")), 0]
        assert [int(row["pixels_liver"]), int(row["pixels_tumour"])] == [(own == 1).sum(), (own == 2).sum()]
        pngs[pydicom.dcmread(tmp_path / "series" / name.with_suffix(".dcm")).SOPInstanceUID] = own
    highdicom = pytest.importorskip("highdicom")
    predict.run(settings(**asked, masks="dicom_seg"), tmp_path / "seg")
    found = sorted((tmp_path / "seg" / "masks").rglob("*.dcm"))
    assert len(found) == 6
    seen = 0
    for path in found:
        seg = highdicom.seg.segread(path)
        uids = [uid for _, _, uid in seg.get_source_image_uids()]
        planes = seg.get_pixels_by_source_instance(uids, combine_segments=True)
        for uid, plane in zip(uids, planes, strict=True):
            np.testing.assert_array_equal(plane, pngs[uid])
            seen += 1
    assert seen == 18


def test_an_old_run_that_kept_no_labels_is_refused(trained_run, lits, tmp_path):
    shutil.copytree(trained_run, tmp_path / "old")
    record = json.loads((tmp_path / "old" / "run.json").read_text())
    del record["dataset"]["labels"], record["dataset"]["segmentation"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"got no labels and no segmentation of its dataset; run it again"):
        predict.run(settings(of=str(tmp_path / "old"), images=str(lits.parent / "source")), tmp_path / "out")


def elsewhere(trained_run, lits, workdir, labels, site="elsewhere"):
    where = dict(dir=str(lits), site=site, labels=labels)
    predict.run(settings(of=str(trained_run), external=where), workdir)
    return ledger.read_run(workdir)


def test_masks_are_judged_at_another_site(trained_run, lits, tmp_path):
    own = ledger.read_run(trained_run)
    there = elsewhere(trained_run, lits, tmp_path / "both", (("liver", "liver"), ("tumour", "tumour")))
    assert (there.task, there.task_kind, there.primary_metric) == (
        "lits at elsewhere",
        "segmentation",
        "dice_per_volume",
    )
    assert set(there.predictions.split) == {"test"}
    assert len(there.predictions) > len(own.predictions)  # train too
    rows = [list(there.predictions.case_id).index(case) for case in own.predictions.case_id]
    np.testing.assert_allclose(there.predictions.scores[rows], own.predictions.scores)
    found, wanted = there.predictions.masks.take(rows), own.predictions.masks
    for i in range(len(rows)):
        np.testing.assert_array_equal(found.mask(i), wanted.mask(i))
    assert there.metrics["test"].keys() == own.metrics["test"].keys()
    shutil.copytree(trained_run, tmp_path / "own")
    tasks = {g.task for g in compare(ledger.read_runs(tmp_path), n_resamples=100).groups}
    assert tasks == {"lits", "lits at elsewhere"}


def test_a_region_that_the_other_site_has_not_drawn_is_unknown(trained_run, lits, tmp_path):
    both = elsewhere(trained_run, lits, tmp_path / "both", (("liver", "liver"), ("tumour", "tumour")))
    livers = elsewhere(trained_run, lits, tmp_path / "livers", (("liver", "liver"), ("tumour", "liver")))
    np.testing.assert_allclose(livers.predictions.scores[:, 0], both.predictions.scores[:, 0])  # with its tumours
    assert np.isnan(livers.predictions.scores[:, 1]).all()
    assert livers.predictions.label_mask.tolist() == [[1, 0]] * len(livers.predictions)
    assert livers.metrics["test"]["dice_per_volume"]["value"] == pytest.approx(
        np.nanmean(livers.predictions.scores[:, 0]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), r"no label mapping.*from liver, tumour to liver, tumour"),
        ((("lever", "liver"),), 'did you mean "liver"'),
        ((("liver", "lever"),), 'the model has no label .*did you mean "liver"'),
    ],
)
def test_a_mapping_of_masks_that_does_not_fit_is_refused(trained_run, lits, tmp_path, labels, message):
    with pytest.raises(UserError, match=message):
        elsewhere(trained_run, lits, tmp_path, labels)
    assert not ledger.is_finished(tmp_path)


def test_which_regions_a_mapping_can_judge(lits):
    card = read_card(lits)
    ours = dataclasses.replace(card, segmentation=("NCR/NET", "oedema", "enhancing"))
    theirs = dataclasses.replace(card, segmentation=("core", "active", "swelling", "bone"))
    rules = segmentation.Rules(regions="brats")

    def judged(*pairs):
        return external.reading(dict(pairs), theirs, ours, rules).regions

    core, active, swelling = ("core", "NCR/NET"), ("active", "enhancing"), ("swelling", "oedema")
    assert judged(core, active, swelling) == ("ET", "TC", "WT")
    assert judged(core, active) == ("ET", "TC")
    assert judged(active, swelling) == ("ET",)
    with pytest.raises(UserError, match=r"no region can be judged; got oedema; expected all classes of one of ET"):
        judged(swelling)
    values = external.reading(dict([core, active]), theirs, ours, rules).values
    assert (values[0], values[1], values[2], values[3], values[4], values[255]) == (0, 1, 3, 0, 0, 255)
    large = dataclasses.replace(theirs, stored=dataclasses.replace(card.stored, size=(64, 64)))
    with pytest.raises(UserError, match=r"windows at the scale.*build lits with --size=32"):
        external.reading(dict([active]), large, ours, segmentation.Rules("brats", inference="windows"))


def test_a_class_that_no_mask_of_train_shows_is_refused(lits, tmp_path, monkeypatch):
    config = configured(lits)
    strict = tiny.change(config, data=config.data.to_dict() | dict(missing_classes="refuse"))
    train.check(strict, assemble(strict))  # both are there
    monkeypatch.setattr(records, "count_mask_classes", lambda split: Counts(("liver", "tumour"), (1, 0), (9, 9)))
    with pytest.raises(UserError, match=r"1 of 2 classes are missing in split 'train'; got no .* tumour"):
        train.run(strict, tmp_path / "run")
    assert not (tmp_path / "run").exists()
