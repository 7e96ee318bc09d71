"""RSNA-STR pulmonary embolism: labels by slice, exams kept as a fact, three windows as a model input."""

import csv
from pathlib import Path

import numpy as np
import pytest

from configs.common import PE_WINDOWS, pe_input
from data_prep.build import build
from data_prep.datasets import rsna_pe
from data_prep.miniatures import write_miniature
from data_prep.miniatures.rsna_pe import EXAMS, SLICES, slice_hu, uid
from data_prep.spec import Candidate
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import ModelInput, make_adapter, standardise, to_unit
from tests.data_prep.miniature_builds import build_miniature
from tests.data_prep.test_dicom import reason_of


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return build_miniature("rsna_pe", tmp_path_factory.mktemp("rsna_pe"), size=48)


@pytest.fixture(scope="module")
def places():
    return {slice_hu(0, exam, k).tobytes(): (exam, k) for exam in range(len(EXAMS)) for k in range(SLICES)}


def test_labels_and_exams(found, places):
    assert sorted(places[record["image"].tobytes()] for record in found.merged()) == sorted(places.values())
    kinds = ["negative", "positive", "positive", "indeterminate", "negative", "negative", "positive"]
    kinds += ["negative", "positive"]
    for record in found.merged():
        exam, k = places[record["image"].tobytes()]
        assert record["label"] == int(k in EXAMS[exam].clots)
        assert record["exam"] == kinds[exam]
        assert (record["slice"], record["position"]) == (k, 10.0 * k)
    assert (found.card.labels, found.card.stored.unit) == (("no embolism", "embolism"), "HU")
    assert found.report["rejected"] == {}


def test_exams_of_one_patient_do_not_part(found, places):
    patients = {}
    for record in found.merged():
        exam, _ = places[record["image"].tobytes()]
        assert patients.setdefault(exam, record["patient"]) == record["patient"]
    assert patients[7] == patients[8]
    assert len(set(patients.values())) == len(EXAMS) - 1
    assert len({record["series"] for record in found.merged()}) == len(EXAMS)
    split = {record["patient"]: record["split"] for record in found.merged()}
    assert all(split[record["patient"]] == record["split"] for record in found.merged())


def test_three_windows_are_the_channels_of_the_model_input(found):
    model_input = ModelInput.from_json(pe_input(48).to_dict())
    adapter = make_adapter(found.card.stored, model_input)
    hu = found.merged()[0]["image"]
    unit = to_unit(hu, adapter)
    for channel, (centre, width) in enumerate([(-600, 1500), (100, 700), (40, 400)]):
        expected = np.clip((hu[..., 0] - (centre - width / 2)) / width, 0, 1)
        np.testing.assert_allclose(unit[..., channel], expected, atol=1e-6)
    expected = (unit - model_input.mean) / model_input.std
    np.testing.assert_allclose(standardise(unit, adapter), expected, rtol=1e-5, atol=1e-6)
    photo = ModelInput("photo", 3, (48, 48), (), (0.0, 255.0), (0.5,) * 3, (0.5,) * 3)
    crossing = make_adapter(found.card.stored, photo, {"windows": PE_WINDOWS, "channels": "keep"})
    np.testing.assert_array_equal(to_unit(hu, crossing), unit)


def test_no_identifier_leaves_the_source(tmp_path):
    build_miniature("rsna_pe", tmp_path, size=48)
    names = [(kind, number) for kind in ("study", "series", "patient") for number in range(120)]
    secrets = {uid(*name) for name in names} | {uid("image", exam, k) for exam in range(9) for k in range(SLICES)}
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.parent.name != "rejected":
            text = path.read_bytes().decode("latin1")
            assert not [secret for secret in secrets if secret in text]


def test_slices_that_do_not_fit(tmp_path):
    source = write_miniature("rsna_pe", tmp_path / "in")
    with (source / "train.csv").open() as file:
        entry = next(row for row in csv.DictReader(file) if row["StudyInstanceUID"] == uid("study", 1))
    path = "/".join(("train", *(entry[name] for name in rsna_pe.IDS))) + ".dcm"

    def reason(**changes):
        return reason_of(rsna_pe._rows, source, Candidate(path, entry | changes))

    assert len(rsna_pe._rows(source, Candidate(path, entry))) == 1
    assert reason(pe_present_on_image="") == "bad_label"
    assert reason(pe_present_on_image="1", negative_exam_for_pe="1") == "bad_label"
    assert reason(negative_exam_for_pe="1", indeterminate="1") == "bad_label"
    (source / path).unlink()
    assert reason() == "missing_file"


def _refused(source: Path, out: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("rsna_pe", source, out)


def test_the_layout_is_checked_at_the_start(tmp_path):
    source = write_miniature("rsna_pe", tmp_path / "in")
    table = source / "train.csv"
    text = table.read_text()
    table.write_text(text.replace("pe_present_on_image", "pe"))
    _refused(source, tmp_path / "out", r"train.csv lacks the column\(s\) pe_present_on_image")
    table.write_text(text)
    (source / "train").rename(source / "training")
    _refused(source, tmp_path / "out", "no folder train")
    table.unlink()
    _refused(source, tmp_path / "out", "train.csv is missing")
