"""A mixture of built datasets: one kind of pixels, the members' own splits, ids and patients."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_prep.hashing import SALT_VARIABLE
from data_prep.miniatures import write_miniature
from data_prep.phantom import write_ct, write_leaves
from data_prep.spec import GENERATED_MARKER
from radnet_jax.data.card import Member, read_card
from tests.data_prep.miniature_builds import build_from, refused


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Built: ct (phantoms), leaves (photographs, train only), nih (as if it were of patients)."""
    root = tmp_path_factory.mktemp("members")
    ct = write_ct(root / "ct_source", patients_per_region=2, slices=3, image_size=32)
    leaves = write_leaves(root / "leaves_source", images=6, image_size=32)
    nih = write_miniature("chestxray14", root / "nih_source")
    (nih / GENERATED_MARKER).unlink()
    build_from("radnet", ct, root / "ct", size=32)
    build_from("image_folder", leaves, root / "leaves", size=24, splits=("train",))
    build_from("chestxray14", nih, root / "nih", size=24)
    return root


def _table(members, rows, header="dataset,weight"):
    path = members / "mixture.csv"
    path.write_text("".join(f"{line}\n" for line in [header, *rows]))
    return path


def _records(folder, split):
    return list(tfds.builder_from_directory(folder).as_data_source(split))


def test_photographs_x_rays_and_ct_in_one_kind_of_pixels(members, tmp_path):
    table = _table(members, ["leaves,3", "nih,1.5", "ct,1"])
    built = build_from("mixture", table, tmp_path / "out", size=24, windows="40:400", modality="photo")
    card = built.card
    assert (card.task, card.labels, card.generated) == ("none", (), False)
    assert (card.stored.modality, card.stored.channels, card.stored.dtype) == ("photo", 3, "uint8")
    cards = {name: read_card(members / name) for name in ("leaves", "nih", "ct")}
    assert [(m.name, m.weight, m.fingerprint) for m in card.members] == [
        ("image_folder", 3.0, cards["leaves"].fingerprint), ("chestxray14", 1.5, cards["nih"].fingerprint),
        ("radnet", 1.0, cards["ct"].fingerprint),
    ]  # fmt: skip
    assert card.members[0].splits == {"train": 6, "val": 0, "test": 0}
    assert card.members[2].splits == dict(cards["ct"].splits)
    assert card.members[2].crossing == "CT, HU window 40:400, repeated to 3 channels"
    assert read_card(tmp_path / "out") == card
    for split, n in card.splits.items():
        records = _records(tmp_path / "out", split)
        sources = [r for name in cards if split in cards[name].splits for r in _records(members / name, split)]
        assert len(records) == len(sources) == n  # in the order of the members
        for record, before in zip(records, sources, strict=True):
            assert (record["case_id"], record["patient"]) == (before["case_id"], before["patient"])
            assert set(record) == {"image", "case_id", "patient"}
    train = _records(tmp_path / "out", "train")
    np.testing.assert_array_equal(train[0]["image"], _records(members / "leaves", "train")[0]["image"])
    grey = _records(members / "nih", "train")[0]["image"]
    np.testing.assert_array_equal(train[6]["image"], np.repeat(grey, 3, axis=2))


def test_ct_is_averaged_and_then_windowed(members, tmp_path):
    table = _table(members, ["ct,"])
    built = build_from("mixture", table, tmp_path / "out", size=16, windows="40:400,-600:1500,400:1800", seed=3)
    hu = _records(members / "ct", "train")[0]["image"][..., 0].astype(np.float64)
    small = np.rint(hu.reshape(16, 2, 16, 2).mean(axis=(1, 3)))
    image = _records(tmp_path / "out", "train")[0]["image"]
    for channel, (centre, width) in enumerate(((40, 400), (-600, 1500), (400, 1800))):
        expected = np.clip((small - (centre - width / 2)) / width, 0, 1) * 255
        np.testing.assert_allclose(image[..., channel], expected, atol=0.51)
    assert built.card.stored.modality == "CT"
    assert built.card.members[0].weight == built.card.splits["train"]  # none given: as many as there are
    assert built.card.task == "single_label"  # one member, hence one set of labels
    before = pq.read_table(members / "ct/manifest.parquet").to_pylist()
    after = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    kept = ("split", "index", "case_id", "patient", "label", "source", "phash", "rows", "columns", "row_spacing")
    assert [[row[name] for name in kept] for row in after] == [[row[name] for name in kept] for row in before]
    assert {row["member"] for row in after} == {"radnet"}
    salts = [json.loads((folder / "build.json").read_text())["salt"] for folder in (members / "ct", tmp_path / "out")]
    assert salts[0] == salts[1]
    assert built.card.generated


def test_labels_are_kept_where_all_members_have_the_same(members, tmp_path):
    shutil.copytree(members / "nih_source", tmp_path / "other")
    table = tmp_path / "other/Data_Entry_2017_v2020.csv"
    lines = table.read_text().splitlines()
    renamed = [lines[0], *("9" + line[1:] for line in lines[1:])]  # other images of other patients
    for number, line in enumerate(renamed[1:], 1):
        cells = line.split(",")
        renamed[number] = ",".join([*cells[:3], f"9{cells[3]}", *cells[4:]])
    table.write_text("\n".join(renamed))
    for path in (tmp_path / "other").rglob("*.png"):
        path.rename(path.with_name("9" + path.name[1:]))
    for name in ("train_val_list.txt", "test_list.txt"):
        path = tmp_path / "other" / name
        path.write_text("".join(f"9{line[1:]}\n" for line in path.read_text().splitlines()))
    build_from("chestxray14", tmp_path / "other", tmp_path / "nih2", size=24)
    csv = _table(members, ["nih,1,one", f"{tmp_path / 'nih2'},1,two"], "dataset,weight,name")
    built = build_from("mixture", csv, tmp_path / "out", size=24)
    assert built.card.labels == read_card(members / "nih").labels
    assert [m.name for m in built.card.members] == ["one", "two"]
    for split in built.card.splits:
        for folder in (members / "nih", tmp_path / "nih2"):
            for record in _records(folder, split):
                mixed = built.records[record["case_id"].decode()]
                np.testing.assert_array_equal(mixed["labels"], record["labels"])
                np.testing.assert_array_equal(mixed["label_mask"], record["label_mask"])


def test_refusals(members, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def line(rows, *flags, header="dataset,weight"):
        return refused(capsys, "mixture", _table(members, rows, header), out, *flags)

    window = "--windows=40:400"
    assert "lacks the column(s) weight" in line(["ct"], header="dataset")
    assert "has no rows" in line([])
    assert "no dataset in" in line(["nowhere,1"])
    assert "two members of the mixture are called 'chestxray14'" in line(["nih,1", "nih,1"])
    assert "weight in line 3; got '0'" in line(["nih,1,a", "nih,0,b"], header="dataset,weight,name")
    assert "weight in line 2; got 'much'" in line(["nih,much"])
    assert "weight in line 3; got ''" in line(["nih,1", "ct,"], "--modality=XR", window)
    assert "got 'sound'" in line(["nih,1"], "--modality=sound")
    assert "the members are CT and XR" in line(["nih,1", "ct,1"], window)
    assert "radnet holds Hounsfield units; declare" in line(["ct,1"])
    assert "expected centre:width" in line(["ct,1"], "--windows=wide")
    assert "one or 3" in line(["ct,1"], "--windows=40:400,1:2")
    assert "none, since no member is in HU" in line(["nih,1"], window)
    assert "records are smaller" in line(["leaves,1"], "--size=96")
    assert "is not a file" in refused(capsys, "mixture", members, out)
    twice = line(["nih,1,a", "nih,1,b"], header="dataset,weight,name")
    assert "records of split train are in several members" in twice
    salt = tmp_path / "other_salt"
    salt.write_bytes(b"another secret of at least 16 bytes")
    with monkeypatch.context() as patch:
        patch.setenv(SALT_VARIABLE, str(salt))
        build_from("chestxray14", members / "nih_source", tmp_path / "nih2", size=24)
    rows = ["nih,1,a", f"{tmp_path / 'nih2'},1,b"]
    assert "built with different salts, so that" in line(rows, header="dataset,weight,name")
    assert not (out / "card.json").exists()


def test_a_patient_of_one_members_train_split_in_anothers_test_split(members, tmp_path, capsys):
    source = shutil.copytree(members / "nih_source", tmp_path / "in")
    train, test = (source / name for name in ("train_val_list.txt", "test_list.txt"))
    texts = train.read_text(), test.read_text()
    train.write_text(texts[1])
    test.write_text(texts[0])
    build_from("chestxray14", source, tmp_path / "turned", size=24)
    rows = ["nih,1,a", f"{tmp_path / 'turned'},1,b"]
    table = _table(members, rows, "dataset,weight,name")
    error = refused(capsys, "mixture", table, tmp_path / "out")
    assert "patient(s) in the train split of a are in the val or test split of b" in error
    assert not (tmp_path / "out").exists()


def test_a_card_without_members_is_read_as_before(members):
    data = json.loads((members / "ct/card.json").read_text())
    assert read_card(members / "ct").members == ()
    assert data.pop("members", []) == []
    member = Member("a", 1.0, "f", {"train": 2}, "photo")
    assert Member(**json.loads(json.dumps(member.__dict__))) == member
