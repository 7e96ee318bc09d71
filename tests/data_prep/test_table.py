"""Your own data: a table of images of any kind, with masks, labels, patients and splits."""

import csv
import json

import cv2
import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_prep.build import build, main
from data_prep.ingest.image import fit_mask
from data_prep.label_column import learn
from radnet_jax.data.card import read_card
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import write_dicom


def _table(path, rows, columns=("image", "mask", "patient", "labels", "split")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([columns, *rows])
    return path


def _png(path, value, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full(size, value, np.uint8) if np.isscalar(value) else value
    cv2.imwrite(str(path), image)
    return path


def _build(table, out, **options):
    options = {"modality": "XR", "size": 8, "splits": ("train",), "log": lambda line: None} | options
    card = build("table", table, out, **options)
    records = {s: list(tfds.builder_from_directory(out).as_data_source(s)) for s in card.splits}
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    return card, records, rows, json.loads((out / "build.json").read_text())


def test_classes_patients_and_splits(tmp_path):
    rows = []
    for k in range(12):
        _png(tmp_path / "in" / f"{k}.png", 20 * k)
        split = ("train", "train", "train", "validation", "Test", "test")[k // 2]
        rows.append([f"{k}.png", "", f"p{k // 2}", ("cat", "dog")[k % 2], split])
    rows.append(["0.png", "", "p0", "dog", "train"])  # the same image again
    card, records, manifest, report = _build(
        _table(tmp_path / "in" / "table.csv", rows), tmp_path / "out", splits=("train", "val", "test")
    )
    assert (card.task, card.labels, card.splits) == ("single_label", ("cat", "dog"), {"train": 6, "val": 2, "test": 4})
    assert {int(r["image"][0, 0, 0]) // 20 for r in records["test"]} == {8, 9, 10, 11}
    assert all(r["label"] == int(r["image"][0, 0, 0]) // 20 % 2 for s in records for r in records[s])
    assert len({row["patient"] for row in manifest}) == 6
    assert report["rejected"] == {"duplicate": 1}
    assert card.segmentation == ("foreground",)  # there is a column, though it is empty
    assert (records["train"][0]["segmentation"] == 255).all()


def test_only_images_are_needed_and_splits_are_made(tmp_path):
    for k in range(10):
        _png(tmp_path / f"{k}.png", k)
    table = _table(tmp_path / "t.tsv", [[f"{k}.png", "x"] for k in range(10)], ("Image", "note"))
    card, records, _, _ = _build(table, tmp_path / "out", splits=("train", "val", "test"))
    assert (card.task, card.segmentation) == ("none", ())
    assert card.splits == {"train": 7, "val": 1, "test": 2}
    assert set(records["train"][0]) == {"image", "case_id", "patient"}
    again = build("table", table, tmp_path / "out", modality="XR", size=8, log=lambda line: None)
    assert again == card  # the dataset lies beside its images and is no part of the source
    _png(tmp_path / "3.png", 99, (20, 20))
    with pytest.raises(UserError, match="source files changed"):
        build("table", table, tmp_path / "out", modality="XR", size=8)


@pytest.mark.parametrize(
    ("cells", "names", "labels", "masks"),
    [
        (["edema|mass", "mass", "none", ""], ("edema", "mass"), [[1, 1], [0, 1], [0, 0], [0, 0]], [1, 1, 1, 0]),
        (["b=1|a=0", "a=1", "b=", ""], ("a", "b"), [[0, 1], [1, 0], [0, 0], [0, 0]], [[1, 1], [1, 0], [0, 0], [0, 0]]),
    ],
)
def test_findings(tmp_path, cells, names, labels, masks):
    for k in range(4):
        _png(tmp_path / f"{k}.png", 10 * k)
    table = _table(tmp_path / "t.csv", [[f"{k}.png", cell] for k, cell in enumerate(cells)], ("image", "labels"))
    card, records, _, _ = _build(table, tmp_path / "out")
    assert (card.task, card.labels) == ("multi_label", names)
    got = sorted(records["train"], key=lambda r: r["image"].max())
    assert [r["labels"].tolist() for r in got] == labels
    expected = [m if isinstance(m, list) else [m, m] for m in masks]
    assert [r["label_mask"].tolist() for r in got] == expected


def test_label_columns():
    def rule(*cells):
        return learn(enumerate(cells, 2))

    assert rule("b", "a", "").names == ("a", "b")
    numbers = rule("10", "2", "2.0", "")
    assert numbers.names == ("2", "10")
    assert [numbers.read(c)[1] for c in ("10", "2.0", "")] == [1, 0, -1]
    assert rule("", "").task == "none"
    assert rule("a", "a|b", "none").rarity == ("b", "a")
    assert rule("a", "a|b").read("a")[0] == 1  # stratum: the rarest finding
    for cells in (["cat", "3"], ["a=1", "cat"], ["a=1", "b|c"], ["a|b", "3"], ["cat", "a=1"]):
        with pytest.raises(UserError, match="two tasks"):
            rule(*cells)
    with pytest.raises(UserError, match="line 3"):
        rule("1", "0.5")
    with pytest.raises(UserError, match="line 2"):
        rule("a=yes")


def test_ct_from_dicom_nifti_and_npy_in_one_table(tmp_path):
    root = tmp_path / "in"
    for k in range(3):
        write_dicom(
            root / "scan" / str(k), np.full((8, 8), 1000 + k, np.uint16), ImagePositionPatient=[0, 0, -k],
            SOPInstanceUID=f"1.6.{k}", PatientID="X", PatientAge="044Y",
        )  # fmt: skip
    write_dicom(
        root / "one.dcm",
        np.full((8, 8), 1100, np.uint16),
        PatientID="Y",
        StudyInstanceUID="1.6",
        SeriesInstanceUID="1.6.1",
    )
    volume = np.arange(8 * 8 * 4).reshape(8, 8, 4).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 2.5, 1.0])), root / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image((volume > 99).astype(np.uint8), np.diag([1.0, 1.0, 2.5, 1.0])), root / "m.nii.gz")
    np.save(root / "a.npy", np.full((8, 8), -500, np.int16))
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    _png(root / "m.png", mask)
    _png(root / "p.png", 3)
    rows = [
        ["scan", "", "", "thorax", ""], ["one.dcm", "m.png", "Z", "head", ""], ["v.nii.gz", "m.nii.gz", "", "", ""],
        ["a.npy", "", "", "head", ""], ["p.png", "", "", "head", ""],
    ]  # fmt: skip
    card, records, manifest, report = _build(_table(root / "t.csv", rows), tmp_path / "out", modality="CT")
    assert (card.stored.unit, card.stored.dtype, card.splits) == ("HU", "int16", {"train": 9})
    assert report["rejected"] == {"no_hu": 1}
    images = [r["image"][..., 0] for r in records["train"]]
    assert [int(image[0, 0]) for image in images[:4]] == [-22, -23, -24, 76]  # along the normal
    np.testing.assert_array_equal(images[5], volume[::-1, ::-1, 1].T)
    assert (images[8] == -500).all()
    masks = [r["segmentation"] for r in records["train"]]
    np.testing.assert_array_equal(masks[3], mask > 0)
    np.testing.assert_array_equal(masks[5], images[5] > 99)
    assert all((masks[k] == 255).all() for k in (0, 1, 2, 8))
    assert [row["slice"] for row in manifest] == [0, 1, 2, 0, 0, 1, 2, 3, -1]
    assert [row["position"] for row in manifest[4:8]] == [0, 2.5, 5, 7.5]
    assert manifest[0]["age_band"] == "40-49"
    assert len({row["patient"] for row in manifest}) == 4
    example = open_split(tmp_path / "out", "train")[3]
    np.testing.assert_array_equal(example["segmentation"], mask > 0)


def test_a_table_joins_patients_of_dicom_files_and_never_parts_them(tmp_path):
    for k, (patient, study) in enumerate([("B", "1"), ("", "1"), ("A", "1"), ("", "2"), ("C", "3"), ("C", "4")]):
        write_dicom(
            tmp_path / f"{k}.dcm", np.zeros((8, 8), np.uint16), PatientID=patient, StudyInstanceUID=f"1.5.{study}",
            SeriesInstanceUID=f"1.5.{study}.{k}", SOPInstanceUID=f"1.5.{k}",
        )  # fmt: skip
    files = [f"{k}.dcm" for k in range(6)]

    def patients(name, rows, **options):
        table = _table(tmp_path / f"{name}.csv", rows, ("image", "patient"))
        _, _, manifest, report = _build(table, tmp_path / name, modality="CT", **options)
        hashed = [row["patient"] for row in manifest]
        return [hashed.index(h) for h in hashed], report["patients"]["joined"]

    assert patients("none", [[f, ""] for f in files]) == ([0, 0, 0, 3, 4, 4], 1)
    assert patients("one", [[f, "p"] for f in files]) == ([0] * 6, 0)
    parted = [[f, f"p{k}"] for k, f in enumerate(files)]
    assert patients("all", parted) == ([0, 0, 0, 3, 4, 4], 2)
    assert patients("made_up", parted, dicom_ids="ignore") == ([0, 1, 2, 3, 4, 5], 0)
    with pytest.raises(UserError, match=r"2 splits need .* got 1 .* 1 groups of files name more than one patient"):
        _build(
            _table(tmp_path / "two.csv", [[f, f[0]] for f in files[4:]], ("image", "patient")), tmp_path / "two",
            modality="CT", splits=("train", "test"),
        )  # fmt: skip
    # the same file with and without a patient: one person, in either order
    assert patients("first", [["4.dcm", "p"], ["4.dcm", ""], ["5.dcm", ""]]) == ([0, 0], 1)
    assert patients("last", [["4.dcm", ""], ["4.dcm", "p"], ["5.dcm", ""]]) == ([0, 0], 1)


def test_a_patient_cell_matches_patient_id_and_an_unknown_patient_matches_nobody(tmp_path):
    def dicom(path, **fields):
        return write_dicom(path, np.zeros((8, 8), np.uint16), SOPInstanceUID="1.5.9", **fields)

    dicom(tmp_path / "radnet" / "a.dcm", PatientID="X 7")
    dicom(tmp_path / "dicom" / "a.dcm", PatientID="X 7", StudyInstanceUID="1.7")
    tables = {
        "dicom": [["a.dcm", ""]], "cell": [["a.png", " X 7 "]], "other": [["a.png", ""], ["b.png", ""]],
        "another": [["a.png", ""]],
    }  # fmt: skip
    hashed, notes = {}, {}
    for name, rows in tables.items():
        for k, (file, _) in enumerate(rows):
            if file.endswith("png"):
                _png(tmp_path / name / file, k)
        table = _table(tmp_path / name / "t.csv", rows, ("image", "patient"))
        modality = "CT" if name == "dicom" else "XR"
        _, _, manifest, report = _build(table, tmp_path / f"out_{name}", modality=modality)
        hashed[name] = [row["patient"] for row in manifest]
        notes[name] = report["patients"]["note"]
    build("radnet", tmp_path / "radnet", tmp_path / "out", size=8, splits=("train",), log=lambda line: None)
    hashed["radnet"] = pq.read_table(tmp_path / "out" / "manifest.parquet")["patient"].to_pylist()
    assert hashed["radnet"] == hashed["dicom"] == hashed["cell"]
    assert len({*hashed["other"], *hashed["another"], *hashed["cell"]}) == 4  # though two go by the name a.png
    assert notes["dicom"] == notes["cell"] == ""
    assert "2 of 2 patients" in notes["other"]


def test_the_table_itself_is_part_of_the_source(tmp_path):
    for k in range(4):
        _png(tmp_path / f"{k}.png", k)
    for cells in ("abab", "abba"):
        table = _table(tmp_path / "t.csv", [[f"{k}.png", c] for k, c in enumerate(cells)], ("image", "labels"))
        if cells == "abab":
            _build(table, tmp_path / "out")
    with pytest.raises(UserError, match="source files changed"):
        _build(table, tmp_path / "out")


def test_masks_of_several_classes_are_resized_with_their_image(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (20, 10)).astype(np.uint8)
    _png(tmp_path / "a.png", 7, (20, 10))
    _png(tmp_path / "m.png", mask)
    _png(tmp_path / "small.png", mask[:5])
    _png(tmp_path / "four.png", np.full((20, 10), 4, np.uint8))
    _png(tmp_path / "b.png", 8, (20, 10))
    _png(tmp_path / "c.png", 9, (20, 10))
    _png(tmp_path / "d.png", 9, (20, 10))
    rows = [["a.png", "m.png"], ["b.png", "small.png"], ["c.png", "four.png"], ["d.png", "none.png"]]
    table = _table(tmp_path / "t.csv", rows, ("image", "mask"))
    card, records, _, report = _build(table, tmp_path / "out", mask_labels="liver,tumour")
    assert card.segmentation == ("liver", "tumour")
    assert read_card(tmp_path / "out") == card
    (record,) = records["train"]
    assert record["segmentation"].dtype == np.uint8
    np.testing.assert_array_equal(record["segmentation"], fit_mask(mask, (8, 8), "pad_area"))
    assert report["rejected"] == {"mask_mismatch": 1, "mask_value": 1, "missing_mask": 1}


def test_x_rays_in_dicom_and_deep_files(tmp_path):
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    fields = {"meta_class": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX"}
    remove = ("RescaleSlope", "RescaleIntercept")
    write_dicom(
        tmp_path / "a.dcm", stored, remove=remove, PhotometricInterpretation="MONOCHROME1", WindowCenter="2048",
        WindowWidth="4096", **fields,
    )  # fmt: skip
    write_dicom(tmp_path / "b.dcm", stored, remove=remove, **fields, PatientID="P2")
    cv2.imwrite(str(tmp_path / "c.png"), stored)
    table = _table(tmp_path / "t.csv", [["a.dcm"], ["b.dcm"], ["c.png"]], ("image",))
    card, records, _, report = _build(table, tmp_path / "out")
    assert report["rejected"] == {"missing_window": 1, "not_8_bit": 1}
    image = records["train"][0]["image"][..., 0].astype(int)
    assert image[0, 0] > image[-1, -1]  # low is black
    card, records, _, report = _build(table, tmp_path / "wide", value_range="0,3780", channels=3)
    assert card.stored.channels == 3
    assert report["rejected"] == {}
    np.testing.assert_array_equal(records["train"][1]["image"], records["train"][2]["image"])


def test_unusable_rows_are_rejected_and_the_rest_is_built(tmp_path):
    _png(tmp_path / "a.png", 1)
    (tmp_path / "broken.png").write_text("text")
    (tmp_path / "broken.dcm").write_text("text")
    (tmp_path / "broken.nii.gz").write_text("text")
    rows = [["a.png"], ["broken.png"], ["broken.dcm"], ["broken.nii.gz"], ["none.png"], [""]]
    _, _, _, report = _build(_table(tmp_path / "t.csv", rows, ("image",)), tmp_path / "out", value_range="0,255")
    assert report["rejected"] == {
        "missing_file": 1, "no_image": 1, "not_dicom": 1, "not_nifti": 1, "undecodable": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "row", "flags", "message"),
    [
        (("picture", "labels"), ["a.png", "x"], (), "lacks the column image"),
        (("images",), ["a.png"], (), 'did you mean "images"'),
        (("image", "label"), ["a.png", "x"], (), 'did you mean "labels"'),
        (("image", "image"), ["a.png", "x"], (), "twice"),
        (("image", "split"), ["a.png", "Mueller"], (), "line 2 of t.csv has a split that is none"),
        (("image", "labels"), ["a.png", "0.25"], (), "a fraction in line 2"),
        (("image",), ["a.png", "Mueller"], (), "line 2 of t.csv has more cells"),
        (("image",), ["a.png"], ("--modality=XRAY",), "--modality=one of"),
        (("image",), ["a.png"], ("--modality=CT", "--channels=3"), "channels"),
        (("image",), ["a.png"], ("--value_range=high",), "low,high"),
        (("image",), ["a.png"], ("--value_range=9,3",), "low < high"),
        (("image",), ["a.png"], ("--mask_labels=a,a",), "mask_labels"),
        (("image",), ["a.png"], ("--burned_in=yes",), "reject or keep"),
        (("image",), ["none.png"], (), "missing_file: 1"),
        (("image",), ["Mueller\0.png"], (), "line 2 of t.csv has a NUL byte"),
        (("image;labels",), ["a.png;Mueller"], (), "the separator of table t.csv is ';'"),
        (("image\tlabels",), ["a.png\tMueller"], (), "with tabs in its name"),
        (("image",), None, (), "has no rows"),
    ],
)
def test_refusals_are_one_line_without_a_value(tmp_path, capsys, columns, row, flags, message):
    _png(tmp_path / "a.png", 1)
    table = _table(tmp_path / "t.csv", [] if row is None else [row], columns)
    arguments = ["--dataset=table", f"--source={table}", f"--out={tmp_path / 'out'}", "--size=8", "--modality=XR"]
    assert main([*arguments, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert "Mueller" not in error


def test_refusals_of_the_file_itself(tmp_path, capsys):
    for name, content, message in (("none.csv", None, "not a file"), ("b.csv", b"image\n\xff\xfe", "UTF-8 CSV")):
        if content:
            (tmp_path / name).write_bytes(content)
        flags = ["--dataset=table", f"--source={tmp_path / name}", f"--out={tmp_path / 'out'}", "--modality=XR"]
        assert main(flags) == 2
        assert message in capsys.readouterr().err
    table = _table(tmp_path / "t.csv", [["a.png", "p", "train"], ["b.png", "p", "test"]], ("image", "patient", "split"))
    for name in "ab":
        _png(tmp_path / f"{name}.png", 1)
    with pytest.raises(UserError, match="several of the source's split lists"):
        build("table", table, tmp_path / "out", modality="XR", size=8)


def test_a_file_is_one_however_its_path_is_spelt(tmp_path):
    root = tmp_path / "in"
    for k in range(4):
        _png(root / f"{k}.png", 20 * k)
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    _png(tmp_path / "elsewhere" / "3.png", 200)
    (root / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    spellings = ["0.png", "./0.png", "1.png", "link/.././../in/1.png", "2.png", "../in//2.png", str(root / "2.png")]
    rows = [[name, ("train", "test")[k % 2]] for k, name in enumerate([*spellings, "3.png", "link/../3.png"])]
    _, records, _, report = _build(
        _table(root / "t.csv", rows, ("image", "split")), tmp_path / "out", splits=("train", "test")
    )
    values = [int(record["image"][0, 0, 0]) for split in records for record in records[split]]
    assert sorted(values) == [0, 20, 40, 60, 200]  # the last lies beside what the link leads to
    assert report["rejected"] == {"duplicate": 4}


def test_nothing_identifying_leaves_the_private_folder(tmp_path, capsys):
    secrets = ["Mueller", "ID-4711", "scan_of_Hans"]
    root = tmp_path / "Mueller"
    for k in range(6):
        _png(root / f"scan_of_Hans_{k}.png", k)
    rows = [[f"scan_of_Hans_{k}.png", f"ID-4711-{k}", "ab"[k % 2]] for k in range(6)]
    rows.append(["Mueller.png", "ID-4711-9", "a"])
    out = tmp_path / "out"
    build("table", _table(root / "t.csv", rows, ("image", "patient", "labels")), out, modality="XR", size=8)
    texts = [capsys.readouterr().out, str(pq.read_table(out / "manifest.parquet").to_pylist())]
    for split in ("train", "val", "test"):
        for record in tfds.builder_from_directory(out).as_data_source(split):
            texts.append(str({k: v for k, v in record.items() if k != "image"}))
    for path in out.rglob("*"):
        if path.is_file() and path.parent.name != "rejected":
            texts += [path.name, path.read_bytes().decode("latin1")]
    for secret in secrets:
        assert not [text[:200] for text in texts if secret in text], secret
    assert "Mueller" in (out / "rejected" / "rejected.jsonl").read_text()


def test_older_cards_without_masks_can_be_read(tmp_path):
    _png(tmp_path / "a.png", 1)
    card, _, _, _ = _build(_table(tmp_path / "t.csv", [["a.png"]], ("image",)), tmp_path / "out")
    path = tmp_path / "out" / "card.json"
    data = json.loads(path.read_text())
    del data["segmentation"]
    path.write_text(json.dumps(data))
    assert read_card(tmp_path / "out") == card
