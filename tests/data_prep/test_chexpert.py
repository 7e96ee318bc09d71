"""CheXpert: labels by policy, views, layouts, official parts."""

import shutil

import pytest

from data_prep.datasets.chexpert import chexpert
from data_prep.miniatures import write_miniature
from data_prep.observations import COMPETITION, OBSERVATIONS
from data_prep.spec import GENERATED_MARKER
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_from, build_miniature, positives, refused

FRONTAL = {
    "patient00001/study1/view1_frontal.jpg": ({"No Finding", "Support Devices"}, set()),
    "patient00002/study2/view1_frontal.jpg": ({"Lung Opacity", "Fracture"}, {"Cardiomegaly", "Edema"}),
    "patient00002/study1/view1_frontal.jpg": ({"Lung Opacity", "Fracture"}, {"Consolidation"}),
    "patient00003/study1/view1_frontal.jpg": ({"Edema"}, set()),
    "patient00004/study1/view1_frontal.jpg": ({"No Finding"}, set()),
    "patient00005/study1/view1_frontal.jpg": (set(), {"Atelectasis", "Pleural Effusion"}),
    "patient00006/study1/view1_frontal.jpg": ({"Pleural Effusion", "Pleural Other", "Lung Lesion"}, set()),
    "patient00007/study1/view1_frontal.jpg": ({"Enlarged Cardiomediastinum", "Cardiomegaly"}, set()),
    "patient00008/study1/view1_frontal.jpg": ({"Consolidation", "Pneumonia", "Lung Opacity"}, set()),
    "patient00009/study1/view1_frontal.jpg": ({"Atelectasis", "Support Devices"}, set()),
    "patient64541/study1/view1_frontal.jpg": ({"Cardiomegaly", "Enlarged Cardiomediastinum"}, set()),
    "patient64542/study1/view1_frontal.jpg": ({"Support Devices"}, set()),
    "patient64543/study1/view1_frontal.jpg": ({"No Finding"}, set()),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_miniature("chexpert", tmp_path_factory.mktemp("chexpert") / "in")


def test_frontal_images_with_what_is_uncertain_left_out(tmp_path):
    built = build_miniature("chexpert", tmp_path)
    assert built.card.task == "multi_label"
    assert built.card.labels == OBSERVATIONS
    assert len(built.records) == len(FRONTAL)
    for name, (found, unknown) in FRONTAL.items():
        record = built.record(f"chexpert {name}")
        assert positives(built.card, record["labels"]) == found
        assert positives(built.card, 1 - record["label_mask"]) == unknown
        assert (record["split"] == "test") == name.startswith("patient6454")  # valid.csv; val comes out of train
    assert min(built.card.splits.values()) >= 1
    patients = {row["patient"]: row["split"] for row in built.rows.values()}
    assert len(patients) == 12  # the two studies of patient 2 are together
    facts = {name: built.row(f"chexpert {name}") for name in FRONTAL}
    assert [facts[f"patient0000{k}/study1/view1_frontal.jpg"]["sex"] for k in (1, 3, 6)] == ["F", "M", None]
    assert facts["patient00001/study1/view1_frontal.jpg"]["age_band"] == "60-69"
    assert facts["patient00008/study1/view1_frontal.jpg"]["age_band"] == "90+"
    assert facts["patient00004/study1/view1_frontal.jpg"]["view"] == "PA"
    assert facts["patient00007/study1/view1_frontal.jpg"]["view"] == "frontal"  # LL in the table, frontal in its name
    assert (built.report["rejected"], built.report["left_out"]) == ({}, 0)
    assert built.report["not_asked"] == {"files": 3, "images": 3}
    assert built.report["files"] == len(FRONTAL) + 3
    assert "3 images are not wanted by the options" in (tmp_path / "out" / "report.html").read_text()


def test_five_findings_of_all_views_by_what_was_best(source, tmp_path):
    built = build_from("chexpert", source, tmp_path / "out", findings="5", uncertain="best", views="all")
    assert built.card.labels == COMPETITION
    assert len(built.records) == len(FRONTAL) + 3
    doubtful = built.record("chexpert patient00005/study1/view1_frontal.jpg")
    assert positives(built.card, doubtful["labels"]) == {"Atelectasis", "Pleural Effusion"}
    assert doubtful["label_mask"].all()
    doubtful = built.record("chexpert patient00002/study2/view1_frontal.jpg")
    assert positives(built.card, doubtful["labels"]) == {"Edema"}  # Cardiomegaly: zeros
    assert doubtful["label_mask"].all()
    lateral = "chexpert patient00002/study1/view2_lateral.jpg"
    assert positives(built.card, 1 - built.record(lateral)["label_mask"]) == {"Consolidation"}
    assert built.row(lateral)["view"] == "lateral"


def test_policies(source):
    codes = "1" + "0" + "u" + "b" * 11

    def read(**options):
        return chexpert(source, 16, **options).rows.keywords["policy"].read(codes)

    assert read() == ((1, *[0] * 13), (1, 1, 0, *[1] * 11))
    assert read(uncertain="ones") == ((1, 0, 1, *[0] * 11), (1,) * 14)
    assert read(uncertain="zeros") == ((1, *[0] * 13), (1,) * 14)
    assert read(blank="ignore") == ((1, *[0] * 13), (1, 1, *[0] * 12))
    assert chexpert(source, 16, blank="ignore").rows.keywords["policy"].read("b" * 14)[1] == (1, *[0] * 13)


def test_the_full_size_download_with_its_test_set(source, tmp_path):
    root = tmp_path / "in"
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    base = shutil.copytree(source / "CheXpert-v1.0-small", first)
    (root / GENERATED_MARKER).touch()
    for number, patients in ((2, (1, 2, 3, 4)), (3, (5, 6, 7)), (4, (8, 9))):
        for patient in patients:
            folder = root / f"CheXpert-v1.0 batch {number} (train {number - 1})"
            shutil.move(base / "train" / f"patient{patient:05d}", folder / f"patient{patient:05d}")
    (base / "train").rmdir()
    for name in ("train", "valid"):
        table = base / f"{name}.csv"
        table.write_text(table.read_text().replace("CheXpert-v1.0-small", "CheXpert-v1.0"))
    columns = [name.replace("Lung Opacity", "Airspace Opacity") for name in OBSERVATIONS[1:]]  # no column No Finding
    cells = ["1" if name in ("Airspace Opacity", "Edema") else "0" for name in columns]
    lines = [["Path", *columns], ["test/patient64741/study1/view1_frontal.jpg", *cells]]
    (base / "test_labels.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    shutil.copytree(base / "valid/patient64541", base / "test/patient64741")
    built = build_from("chexpert", root, tmp_path / "out")
    assert built.card.splits == {"train": 10, "val": 3, "test": 1}
    record = built.record("chexpert patient64741/study1/view1_frontal.jpg")
    assert positives(built.card, record["labels"]) == {"Lung Opacity", "Edema"}
    assert positives(built.card, 1 - record["label_mask"]) == {"No Finding"}
    assert chexpert(root, 16, official_valid="test").candidates.keywords["pools"]["train"] == "train+val"


def test_what_is_missing_is_named(source, tmp_path, capsys):
    root = shutil.copytree(source, tmp_path / "in")
    base = root / "CheXpert-v1.0-small"
    table = (base / "train.csv").read_text()
    out = tmp_path / "out"
    assert "uncertain; got 'maybe'; expected one of" in refused(capsys, "chexpert", root, out, "--uncertain=maybe")
    with pytest.raises(UserError, match="official_valid"):
        chexpert(root, 16, official_valid="train")
    (base / "train.csv").write_text(table.replace("Pneumothorax", "Ptx"))
    assert "train.csv lacks the column(s) Pneumothorax" in refused(capsys, "chexpert", root, out)
    (base / "train.csv").write_bytes(b"\xff\xfe\x00")
    assert "train.csv can't be read" in refused(capsys, "chexpert", root, out)
    (base / "train.csv").write_text(table.replace("AP,1.0", "AP,maybe"))
    shutil.rmtree(base / "train/patient00003")
    built = build_from("chexpert", root, out)
    assert built.report["rejected"] == {"missing_file": 1, "unknown_label": 1}
    (base / "valid.csv").unlink()
    assert "valid.csv is missing" in refused(capsys, "chexpert", root, out)
    (base / "train.csv").unlink()
    assert "no train.csv" in refused(capsys, "chexpert", root, out)
