"""MIMIC-CXR-JPG: official splits, views, both labellers, the radiologist's test labels."""

import gzip
import shutil

import pytest

from data_prep.miniatures import write_miniature
from data_prep.miniatures.mimic_cxr import dicom_id
from tests.data_prep.miniature_builds import build_from, build_miniature, positives, refused

# study: (split, labels, uncertain labels) of its first, frontal image
STUDIES = {
    50414267: ("train", {"No Finding"}, set()),
    53189527: ("train", {"Lung Opacity"}, {"Pneumonia"}),
    57375967: ("train", {"Consolidation"}, {"Pleural Effusion"}),
    50771383: ("train", set(), {"Atelectasis"}),
    50578979: ("train", {"Lung Lesion"}, set()),
    50985099: ("train", {"Cardiomegaly", "Edema", "Pleural Effusion"}, set()),
    51029426: ("val", {"Fracture"}, set()),
    51967845: ("val", {"No Finding"}, set()),
    56164612: ("test", {"Support Devices"}, {"Edema"}),
    52341872: ("test", {"Pneumonia"}, set()),
}


def _image(study, number=0):
    return f"mimic {dicom_id(study, number)}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_miniature("mimic_cxr", tmp_path_factory.mktemp("mimic") / "in")


def test_frontal_images_in_the_official_splits(tmp_path):
    built = build_miniature("mimic_cxr", tmp_path)
    assert built.card.splits == {"train": 6, "val": 2, "test": 2}
    for study, (split, found, unknown) in STUDIES.items():
        record = built.record(_image(study))
        assert record["split"] == split
        assert positives(built.card, record["labels"]) == found
        assert positives(built.card, 1 - record["label_mask"]) == unknown
    assert built.report["rejected"] == {"not_labelled": 1}
    assert built.report["not_asked"] == {"files": 5, "images": 5}
    assert built.report["files"] == 10 + 1 + 5
    assert built.row(_image(50414267))["patient"] == built.row(_image(53189527))["patient"]
    assert {row["view"] for row in built.rows.values()} == {"PA", "AP"}
    assert "sex" not in built.row(_image(50414267))  # the tables don't tell it


def test_all_views_and_the_radiologist(source, tmp_path):
    built = build_from(
        "mimic_cxr", source, tmp_path / "out", views="all", test_labels="radiologist", uncertain="ones", findings="5"
    )
    assert built.card.splits == {"train": 10, "val": 2, "test": 1}
    assert built.report["rejected"] == {"not_labelled": 3}  # a study of train and two images of test
    test = built.record(_image(56164612))
    assert positives(built.card, test["labels"]) == {"Edema"}
    assert test["label_mask"].all()
    assert [built.row(_image(study, 1))["view"] for study in (50414267, 50771383, 50578979)] == [
        "lateral", "lateral", None,
    ]  # fmt: skip


def test_the_other_labeller_and_one_view_from_unpacked_tables(source, tmp_path):
    root = shutil.copytree(source, tmp_path / "in")
    for path in root.glob("*.csv.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    built = build_from("mimic_cxr", root, tmp_path / "out", labeler="negbio", views="AP", splits=("train",))
    assert built.card.splits == {"train": 3}
    assert positives(built.card, built.record(_image(53189527))["labels"]) == {"Lung Opacity", "Pneumonia"}


def test_what_is_missing_is_named(source, tmp_path, capsys):
    root, out = shutil.copytree(source, tmp_path / "in"), tmp_path / "out"
    split = root / "mimic-cxr-2.0.0-split.csv.gz"
    table = gzip.decompress(split.read_bytes())
    assert "views; got 'oblique'" in refused(capsys, "mimic_cxr", root, out, "--views=oblique")
    assert "labeler; got 'human'" in refused(capsys, "mimic_cxr", root, out, "--labeler=human")
    (root / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id,Edema\n1,1.0\n")
    assert "lacks the column(s) No Finding" in refused(
        capsys, "mimic_cxr", root, out, "--test_labels=radiologist", "--findings=14"
    )
    split.write_bytes(gzip.compress(table.replace(b"subject_id", b"subject")))
    assert "split.csv.gz lacks the column(s) subject_id" in refused(capsys, "mimic_cxr", root, out)
    split.write_bytes(gzip.compress(table)[:-20])
    assert "split.csv.gz can't be read" in refused(capsys, "mimic_cxr", root, out)
    split.write_bytes(gzip.compress(table.replace(b"validate", b"holdout", 1)))
    shutil.rmtree(root / "files/p10/p10000980")
    built = build_from("mimic_cxr", root, out)
    assert built.report["rejected"] == {"missing_file": 1, "not_labelled": 1, "unknown_split": 1}
    (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    assert "source lacks mimic-cxr-2.0.0-chexpert.csv.gz" in refused(capsys, "mimic_cxr", root, out)
