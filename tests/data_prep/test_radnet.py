"""The radnet dataset: labels, patients, order, rejected files, and nothing that identifies anyone."""

import json
import os
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import tensorflow_datasets as tfds

from data_prep.build import build
from data_prep.datasets.radnet import BODY_REGIONS, body_region
from data_prep.ingest.dicom import read_hu
from radnet_jax.data.card import read_card
from tests.data_prep.dicom_files import source_of_patients, write_dicom

HEAD, THORAX, ABDOMEN, EXTREMITIES, PELVIS, SPINE = range(6)


def records(out, split="train"):
    return list(tfds.builder_from_directory(out).as_data_source(split))


def rejected(out):
    return [json.loads(line) for line in (out / "rejected" / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("HEAD", HEAD),
        ("Skull", HEAD),
        ("Schädel", HEAD),
        ("SCHAEDEL", HEAD),
        ("CCT", HEAD),
        ("NECK CHEST", HEAD),  # the first class wins, not the first word
        ("CHEST", THORAX),
        ("THX", THORAX),
        ("CHEST_ABDOMEN_PELVIS", THORAX),
        ("ABDOMENPELVIS", ABDOMEN),
        ("Oberbauch", ABDOMEN),
        ("KNEE", EXTREMITIES),
        ("Unterarm", EXTREMITIES),
        ("OBERSCHENKEL", EXTREMITIES),
        ("Hüfte", PELVIS),
        ("HUEFTE", PELVIS),
        ("BECKEN", PELVIS),
        ("LSPINE", SPINE),
        ("LWS", SPINE),
        ("Wirbelsäule", SPINE),
        ("", -1),
        ("WHOLEBODY", -1),
        ("PARTIALBODY", -1),
        ("UNKNOWN", -1),
        # a longer word that holds a keyword of another class
        ("DICKDARM", ABDOMEN),  # bowel, holds "arm"
        ("FELSENBEIN", HEAD),  # petrous bone, holds "bein" (leg)
        ("BRUSTBEIN", THORAX),  # sternum, likewise
        # oddities of the study's own order, kept
        ("THORACIC SPINE", THORAX),
        ("ORTHO", THORAX),
        ("HALSWIRBELSAEULE", HEAD),
        ("HUEFTKOPF", HEAD),
        ("CTA NEWSCAN", SPINE),
        ("COLLEGE", EXTREMITIES),
        ("ALARM", EXTREMITIES),
    ],
)
def test_body_region(text, label):
    assert body_region(text) == label
    assert body_region(text.swapcase()) == label


def test_classes_stand_in_the_order_of_the_study():
    assert list(BODY_REGIONS) == ["head/neck", "thorax", "abdomen", "extremities", "pelvis/hip", "spine"]


def test_records_manifest_and_card_agree(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=36, slices=3, PatientAge="057Y", Manufacturer="SIEMENS AG")
    out = tmp_path / "out"
    card = build("radnet", source, out, size=16)
    assert card == read_card(out)
    assert card.labels == tuple(BODY_REGIONS)
    assert sum(card.splits.values()) == 108
    assert not card.generated
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    patients = {}
    for split in card.splits:
        rows = [row for row in table if row["split"] == split]
        assert [row["index"] for row in rows] == list(range(card.splits[split]))
        for row, record in zip(rows, records(out, split), strict=True):
            assert record["case_id"].decode() == row["case_id"]
            assert record["patient"].decode() == row["patient"]
            assert record["label"] == row["label"]
            assert record["image"].shape == (16, 16, 1)
            assert record["image"].dtype == np.int16
            patients.setdefault(row["patient"], set()).add(split)
        assert {row["label"] for row in rows} == set(range(6))  # stratified
    assert len(patients) == 36
    assert all(len(splits) == 1 for splits in patients.values())
    assert len({row["case_id"] for row in table}) == 108
    assert {(row["sex"], row["age_band"], row["scanner"]) for row in table} == {(None, "50-59", "siemens")}
    assert "tensorflow" not in sys.modules


def test_slices_are_ordered_along_the_normal_not_by_name_or_number(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=1, slices=4)
    build("radnet", source, tmp_path / "out", size=16, splits=("train",))
    images = [r["image"][..., 0] for r in records(tmp_path / "out")]
    for k, image in enumerate(images):  # file 3.dcm lies lowest
        np.testing.assert_array_equal(image, read_hu(source / "p0" / f"{3 - k}.dcm", (-1024, 3071)))
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["slice"] for row in table] == [0, 1, 2, 3]
    assert len({row["series"] for row in table}) == 1


def test_a_series_without_every_position_is_ordered_by_instance_number(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=1, slices=3)
    write_dicom(
        source / "p0" / "9.dcm", np.full((16, 16), 9, np.uint16), PatientID="patient-0", InstanceNumber="7",
        StudyInstanceUID="1.9.0", SeriesInstanceUID="1.9.0.1", remove=("ImagePositionPatient",),
    )  # fmt: skip
    build("radnet", source, tmp_path / "out", size=16, splits=("train",))
    images = [r["image"][..., 0] for r in records(tmp_path / "out")]
    for image, name in zip(images, ("0", "1", "2", "9"), strict=True):
        np.testing.assert_array_equal(image, read_hu(source / "p0" / f"{name}.dcm", (-1024, 3071)))


def test_unusable_files_are_counted_by_reason_and_the_rest_is_built(tmp_path, capsys):
    source = source_of_patients(tmp_path / "in", patients=6, slices=2)
    good = np.zeros((16, 16), np.uint16)
    (source / "notes.txt").write_text("Mueller, Hans")
    (source / ".hidden").write_text("passed over")
    write_dicom(source / "capture.dcm", good, meta_class="1.2.840.10008.5.1.4.1.1.7")
    write_dicom(source / "scout.dcm", good, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(source / "raw.dcm", good, remove=("RescaleSlope",))
    (source / "z").mkdir()
    shutil.copy(source / "p0" / "0.dcm", source / "z" / "copy.dcm")
    cut = write_dicom(source / "cut.dcm", good, PatientID="patient-0", SeriesInstanceUID="1.9.0.1")
    cut.write_bytes(cut.read_bytes()[:-100])
    umask = os.umask(0)
    try:
        card = build("radnet", source, tmp_path / "out", size=16, splits=("train",))
    finally:
        os.umask(umask)
    reasons = {"not_dicom", "secondary_capture", "localizer", "missing_rescale", "duplicate", "truncated"}
    lines = rejected(tmp_path / "out")
    assert {line["reason"] for line in lines} == reasons
    assert len(lines) == 6
    assert {line["path"] for line in lines if line["reason"] == "duplicate"} == {"z/copy.dcm"}
    assert [line["index"] for line in lines] == sorted(line["index"] for line in lines)
    assert card.splits == {"train": 12}
    assert len(records(tmp_path / "out")) == 12
    assert len(pq.read_table(tmp_path / "out" / "manifest.parquet")) == 12
    report = json.loads((tmp_path / "out" / "build.json").read_text())
    assert report["rejected"] == dict.fromkeys(sorted(reasons), 1)
    assert report["files"] == 18
    folder = tmp_path / "out" / "rejected"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "rejected.jsonl").stat().st_mode & 0o777 == 0o600
    printed = capsys.readouterr().out
    assert "6 of 18 files rejected" in printed
    assert "truncated: 1" in printed


def test_ten_bad_files_of_a_hundred_cost_ten_files(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=45, slices=2)
    pixels = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)

    def bad(name, **fields):
        return write_dicom(source / "bad" / name, pixels, SOPInstanceUID=f"1.4.{len(name)}", **fields)

    def compressed(path, syntax, **fields):
        data = pydicom.dcmread(path)
        data.compress(syntax)
        for field, value in fields.items():
            setattr(data, field, value)
        data.save_as(path)

    path = bad("t")
    path.write_bytes(path.read_bytes()[:-1000])
    broken = pydicom.encaps.encapsulate([b"\x01\0\0\0" + b"\xff" * 80])
    compressed(bad("ur"), pydicom.uid.RLELossless, PixelData=broken)
    compressed(bad("huge"), pydicom.uid.JPEGLSLossless, Rows=65535, Columns=65535)
    bad("other", meta_class="1.2.840.10008.5.1.4.1.1.4")
    bad("scout1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    bad("capture", meta_class="1.2.840.10008.5.1.4.1.1.7")
    bad("no_slope", remove=("RescaleSlope",))
    (source / "bad" / "text").write_text("text")
    (source / "bad" / "empty").touch()
    shutil.copy(source / "p0" / "0.dcm", source / "copy")
    card = build("radnet", source, tmp_path / "out", size=16, splits=("train",))
    assert card.splits == {"train": 90}
    assert {line["reason"] for line in rejected(tmp_path / "out")} == {
        "truncated", "undecodable", "memory_limit", "not_ct", "localizer", "secondary_capture", "missing_rescale",
        "not_dicom", "empty_file",
    } | {"duplicate"}  # fmt: skip
    assert len(rejected(tmp_path / "out")) == 10


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # while the test writes such values
def test_nothing_identifying_leaves_the_private_folder(tmp_path, capsys):
    secrets = ["Mueller", "Hans", "ID-4711", "20210203", "1.77.5", "1.77.6", "1.77.7", "STATION9", "ACC-88", "19600102"]
    source = tmp_path / "in"
    for k in range(4):
        write_dicom(
            source / "Mueller_Hans" / f"ID-4711_{k}.dcm", np.full((16, 16), k, np.uint16), PatientName="Mueller^Hans",
            PatientID=f"ID-4711-{k}", PatientBirthDate="19600102", StudyDate="20210203", StationName="STATION9",
            AccessionNumber="ACC-88", StudyInstanceUID=f"1.77.5.{k}", SeriesInstanceUID=f"1.77.6.{k}",
            SOPInstanceUID=f"1.77.7.{k}", Manufacturer="Mueller Hans GmbH", PatientSex="Mueller", PatientAge="Hans",
        )  # fmt: skip
    (source / "Mueller_Hans" / "ID-4711.txt").write_text("Hans Mueller")
    out = tmp_path / "out"
    build("radnet", source, out, size=16)
    texts = [capsys.readouterr().out]
    for path in out.rglob("*"):
        if path.is_file() and path.parent.name != "rejected":
            texts += [path.name, path.read_bytes().decode("latin1")]
    texts.append(str(pq.read_table(out / "manifest.parquet").to_pylist()))
    texts += [
        str({k: v for k, v in r.items() if k != "image"}) for s in ("train", "val", "test") for r in records(out, s)
    ]
    for secret in [*secrets, str(source)]:
        assert not [text[:200] for text in texts if secret in text], secret
    assert not (out / ".build").exists()
    assert "Mueller" in (out / "rejected" / "rejected.jsonl").read_text()  # the private list does hold it


def test_an_empty_patient_id_makes_one_patient_a_study(tmp_path):
    source = tmp_path / "in"
    for study in range(3):
        for k in range(2):
            write_dicom(
                source / f"{study}{k}.dcm", np.full((16, 16), k, np.uint16), PatientID="",
                StudyInstanceUID=f"1.5.{study}", SeriesInstanceUID=f"1.5.{study}.{k}",
            )  # fmt: skip
    build("radnet", source, tmp_path / "out", size=16, splits=("train",))
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert len({row["patient"] for row in table}) == 3
    assert len({row["series"] for row in table}) == 6


def test_no_usable_label_is_kept_as_unlabelled(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=3, BodyPartExamined="WHOLEBODY")
    build("radnet", source, tmp_path / "out", size=16)
    assert {r["label"] for s in ("train", "val", "test") for r in records(tmp_path / "out", s)} == {-1}
    assert json.loads((tmp_path / "out" / "build.json").read_text())["labels"]["train"] == {"unlabelled": 2}


@pytest.mark.real_data
def test_real_series(real_data, tmp_path, capsys):
    out = tmp_path / "out"
    card = build("radnet", real_data / "ct_dicom", out, size=64, splits=("train",))
    assert card.splits == {"train": 52}
    assert rejected(out) == []
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    assert len({row["patient"] for row in table}) == 2
    assert sorted({sum(r["series"] == s for r in table) for s in {r["series"] for r in table}}) == [20, 32]
    assert {row["label"] for row in table} == {-1}  # no body part, and PARTIALBODY
    assert {row["scanner"] for row in table} == {"philips", "siemens"}
    for record in records(out):
        image = record["image"]
        assert image.min() < -950  # air around the patient
        assert -120 < np.median(image[image > -200]) < 120  # fat and soft tissue
    text = capsys.readouterr().out + (out / "build.json").read_text() + (out / "card.json").read_text()
    assert "Lung_Dx" not in text
    assert "1.3.6.1.4" not in text + str(table)


@pytest.mark.real_data
def test_jpeg_2000_gives_the_same_pixels_as_its_uncompressed_copy(real_data, tmp_path):
    import pydicom

    path = sorted((real_data / "ct_dicom" / "partial_body_jpeg2000").iterdir())[0]
    data = pydicom.dcmread(path)
    assert data.file_meta.TransferSyntaxUID.is_compressed
    stored = data.pixel_array.astype(np.float64)
    expected = np.clip(stored * float(data.RescaleSlope) + float(data.RescaleIntercept), -1024, 3071)
    np.testing.assert_array_equal(read_hu(path, (-1024, 3071)), expected.astype(np.int16))
    data.decompress()
    data.save_as(tmp_path / "plain.dcm")
    np.testing.assert_array_equal(read_hu(tmp_path / "plain.dcm", (-1024, 3071)), read_hu(path, (-1024, 3071)))
