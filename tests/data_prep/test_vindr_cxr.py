"""VinDr-CXR: votes of radiologists, two spellings, DICOM as a viewer shows it."""

import shutil

import numpy as np
import pytest

from data_prep.datasets.vindr_cxr import FINDINGS
from data_prep.ingest.image import fit
from data_prep.miniatures import write_miniature
from data_prep.miniatures.parts import radiograph
from data_prep.miniatures.vindr_cxr import LABELS, image_id
from tests.data_prep.miniature_builds import build_from, build_miniature, positives, refused

MAJORITY = [{"No finding"}, {"Cardiomegaly"}, {"Pleural effusion"}, {"No finding"}, {"Nodule/Mass", "Lung tumor"}]
MAJORITY += [{"No finding"}]
ANY = [
    {"No finding"}, {"Cardiomegaly", "Aortic enlargement", "No finding"},
    {"Pleural effusion", "Other diseases", "Pneumonia"}, {"Tuberculosis", "No finding"}, {"Nodule/Mass", "Lung tumor"},
    {"No finding", "COPD"},
]  # fmt: skip
TEST = [{"Pneumothorax", "Other diseases"}, {"No finding"}]


def _identity(part, number):
    return f"vindr {image_id(part, number)}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_miniature("vindr_cxr", tmp_path_factory.mktemp("vindr") / "in")


def test_the_majority_of_the_readers(tmp_path):
    built = build_miniature("vindr_cxr", tmp_path, size=60)
    assert built.card.labels == LABELS
    assert built.card.splits == {"train": 5, "val": 1, "test": 2}
    for part, expected in (("train", MAJORITY), ("test", TEST)):
        for number, found in enumerate(expected):
            record = built.record(_identity(part, number))
            assert positives(built.card, record["labels"]) == found
            assert record["label_mask"].all()
            assert (record["split"] == "test") == (part == "test")
    facts = [(built.row(_identity("train", k))["sex"], built.row(_identity("train", k))["age_band"]) for k in range(6)]
    assert facts == [("M", "50-59"), ("F", "40-49"), (None, None), ("M", "0-9"), ("O", "70-79"), ("F", "30-39")]
    assert len({row["patient"] for row in built.rows.values()}) == 8


def test_pixels_are_upright_in_both_photometric_interpretations(tmp_path):
    built = build_miniature("vindr_cxr", tmp_path, size=60)
    for number in (0, 1):  # MONOCHROME2, MONOCHROME1
        drawn, _ = radiograph((0, number), 72, 60)
        expected = fit(drawn[..., None], (60, 60), "pad_area", 0).astype(int)
        image = built.record(_identity("train", number))["image"]
        np.testing.assert_allclose(image, expected, atol=2)  # 8 bits of 12


def test_any_reader_of_the_benchmarks_six(source, tmp_path):
    built = build_from("vindr_cxr", source, tmp_path / "out", readers="any", findings="6")
    assert built.card.labels == FINDINGS["6"]
    for number, found in enumerate(ANY):
        assert positives(built.card, built.record(_identity("train", number))["labels"]) == found & set(FINDINGS["6"])
    assert positives(built.card, built.record(_identity("test", 0))["labels"]) == {"Other diseases"}


def test_what_is_missing_is_named(source, tmp_path, capsys):
    root, out = shutil.copytree(source, tmp_path / "in"), tmp_path / "out"
    train = root / "annotations/image_labels_train.csv"
    table = train.read_text()
    assert "findings; got '7'" in refused(capsys, "vindr_cxr", root, out, "--findings=7")
    assert "readers; got 'all'" in refused(capsys, "vindr_cxr", root, out, "--readers=all")
    train.write_text(table.replace("Edema", "Oedema"))
    assert "image_labels_train.csv lacks the column(s) Edema" in refused(capsys, "vindr_cxr", root, out)
    train.write_text(table.replace(",R8,0", ",R8,2", 1))
    (root / "train" / f"{image_id('train', 1)}.dicom").unlink()
    (root / "train" / f"{image_id('train', 2)}.dicom").write_bytes(b"no DICOM")
    built = build_from("vindr_cxr", root, out)
    assert built.report["rejected"] == {"missing_file": 1, "not_dicom": 1, "unknown_label": 1}
    (root / "annotations/image_labels_test.csv").unlink()
    assert "source lacks annotations/image_labels_test.csv" in refused(capsys, "vindr_cxr", root, out)
