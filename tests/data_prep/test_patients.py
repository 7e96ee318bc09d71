"""A patient is never in two splits, whatever the files say or leave out, and the card tells the grouping."""

import json
import random
import shutil
import sqlite3

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from data_prep.build import build
from data_prep.hashing import pseudonym
from data_prep.patients import Groups
from data_prep.phantom import write_ct
from radnet_jax.data.card import read_card
from tests.data_prep.dicom_files import source_of_patients, write_dicom

PIXELS = np.zeros((16, 16), np.uint16)


def _table(out):
    return pq.read_table(out / "manifest.parquet").to_pylist()


def _change(path, **fields):
    data = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path)


def _build(source, out, **options):
    lines = []
    build("radnet", source, out, size=16, log=lines.append, **options)
    return lines


@pytest.mark.parametrize("blank", ["every second file", "all but one file of a series"])
def test_a_partly_de_identified_corpus_parts_no_patient(tmp_path, blank, secret):
    salt = secret.read_bytes()  # a generated folder that was edited is one of patients
    source = write_ct(tmp_path / "ct", patients_per_region=4, slices=4, image_size=32)
    truth = {}
    for k, path in enumerate(sorted(source.rglob("*.dcm"))):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        case = pseudonym(salt, "case", header.SOPInstanceUID)
        truth[case] = (header.PatientID, header.StudyInstanceUID, header.SeriesInstanceUID)
        if k % 2 if blank == "every second file" else k % 4:
            _change(path, PatientID="")
    lines = _build(source, tmp_path / "out")
    splits, hashes = {}, {}
    table = _table(tmp_path / "out")
    for row in table:
        for name in truth[row["case_id"]]:
            splits.setdefault(name, set()).add(row["split"])
        hashes.setdefault(truth[row["case_id"]][0], set()).add(row["patient"])
    assert len(table) == 96
    assert {row["split"] for row in table} == {"train", "val", "test"}
    assert all(len(found) == 1 for found in splits.values())
    # the patient of a group is its id, so that it matches with other datasets
    assert hashes == {name: {pseudonym(salt, "patient", f"id {name}")} for name in hashes}
    assert len(hashes) == 24
    assert not any("more than one patient" in line for line in lines)


def _linked(root, names):
    """Two ids joined by a study, a third patient by a series without study, and files without id or study."""
    rows = [
        ("P2", "1.1", "1.1.1"), ("", "1.1", "1.1.2"), ("P1", "1.1", "1.1.3"), ("P1", "1.2", "1.2.1"),
        ("P3", "", "1.3.1"), ("", "", "1.3.1"), ("P4", "1.4", "1.4.1"), ("", "1.5", "1.5.1"), ("", "1.5", "1.5.2"),
        ("", "", ""), ("", "", ""),
    ]  # fmt: skip
    for k, (name, (patient, study, series)) in enumerate(zip(names, rows, strict=True)):
        # the file with a series alone lies apart, the two without anything lie together
        write_dicom(
            root / ("apart" if k == 5 else "in") / f"{name}.dcm", PIXELS, PatientID=patient, StudyInstanceUID=study,
            SeriesInstanceUID=series, SOPInstanceUID=f"1.7.{k}",
        )  # fmt: skip
    return root


def test_joined_patients_are_counted_and_independent_of_the_order_of_the_files(tmp_path):
    salt = tmp_path / "salt"
    salt.write_bytes(b"a secret of thirty-two bytes ...")
    value = salt.read_bytes().strip()
    names = [f"{k:02d}" for k in range(11)]
    one = _linked(tmp_path / "one" / "s", names)
    shuffled = random.Random(3).sample(names, len(names))
    two = _linked(tmp_path / "two" / "s", shuffled)
    lines = _build(one, tmp_path / "a", salt_file=salt, split_fractions=(0.4, 0.3, 0.3))
    _build(two, tmp_path / "b", salt_file=salt, split_fractions=(0.4, 0.3, 0.3))
    first, second = (
        {row["case_id"]: (row["patient"], row["split"]) for row in _table(tmp_path / n)} for n in ("a", "b")
    )
    assert {case: split for case, (_, split) in first.items()} == {case: split for case, (_, split) in second.items()}
    unnamed = {pseudonym(value, "case", f"1.7.{k}") for k in (9, 10)}  # by their folder, which only their source has
    assert {c: v for c, v in first.items() if c not in unnamed} == {c: v for c, v in second.items() if c not in unnamed}
    assert {first[c][0] for c in unnamed}.isdisjoint({second[c][0] for c in unnamed})
    cases = [first[pseudonym(value, "case", f"1.7.{k}")][0] for k in range(11)]
    key = {name: pseudonym(value, "patient", name) for name in ("id P1", "id P3", "id P4", "study 1.5")}
    assert cases[:9] == [*[key["id P1"]] * 4, *[key["id P3"]] * 2, key["id P4"], *[key["study 1.5"]] * 2]
    assert cases[9] == cases[10]
    assert len(set(cases)) == 5
    assert "1 groups of linked studies name more than one patient: joined" in lines
    assert json.loads((tmp_path / "a" / "build.json").read_text())["patients"]["joined"] == 1


def _keys(rows):
    groups = Groups(sqlite3.connect(":memory:"))
    for row in rows:
        groups.add(row)
    joined = groups.finish()
    return joined, {name: (bool(n), key) for name, n, key in groups._database.execute("SELECT * FROM keys")}


def _components(rows):
    """The same by repeated merging of sets."""
    ranks, sets = {}, []
    for row in rows:
        names = {name for name in row if name}
        for rank, name in enumerate(row):
            if name:
                ranks[name] = min(rank, ranks.get(name, rank))
        touched = [s for s in sets if s & names]
        sets = [s for s in sets if not s & names] + [names.union(*touched)]
    joined = sum(sum(ranks[name] == 0 for name in s) > 1 for s in sets)
    keys = {}
    for s in sets:
        key = min(s, key=lambda name: (ranks[name], name))
        keys |= {name: (ranks[key] == 0, key) for name in s}
    return joined, keys


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b", "c", "s"]), st.sampled_from(["", "a", "s", "t", "u"]), st.sampled_from("xyz")
        ),
        min_size=1,
    ),
    order=st.randoms(use_true_random=False),
)
def test_groups_are_the_connected_components_in_any_order(rows, order):
    expected = _components(rows)
    assert _keys(rows) == expected
    assert _keys(order.sample(rows, len(rows))) == expected


def test_a_long_chain_of_links_is_one_patient():
    chain = [(f"p{k}", f"s{k}", f"s{k + 1}") for k in range(3000)]
    joined, keys = _keys(random.Random(0).sample(chain, len(chain)))
    assert joined == 1
    assert {key for _, key in keys.values()} == {"p0"}


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")])
def test_a_rejected_copy_still_tells_whose_image_it_is(tmp_path, names):
    source = source_of_patients(tmp_path / "in", patients=3)
    for name, patient in zip(names, ("", "patient-0")):
        write_dicom(
            source / f"{name}.dcm", PIXELS, PatientID=patient, StudyInstanceUID="1.8", SeriesInstanceUID="1.8.1",
            SOPInstanceUID="1.8.1.1",
        )  # fmt: skip
    _build(source, tmp_path / "out", splits=("train",))
    table = _table(tmp_path / "out")
    assert len(table) == 7
    assert len({row["patient"] for row in table}) == 3


def _images(root, n=12):
    for k in range(n):
        (root / "a").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "a" / f"{k}.png"), np.full((16, 16), k, np.uint8))
    return root


def test_a_folder_of_x_rays_has_secret_ids_and_says_that_patients_are_unknown(tmp_path, monkeypatch, secret):
    source = _images(tmp_path / "in")
    reports, told = {}, {}
    for modality in ("photo", "XR", "MR", "US", "fundus"):
        lines = []
        monkeypatch.setenv("RADNET_JAX_SALT_FILE", "" if modality == "photo" else str(secret))
        build("image_folder", source, tmp_path / modality, size=16, channels=1, modality=modality, log=lines.append)
        reports[modality] = json.loads((tmp_path / modality / "build.json").read_text())
        told[modality] = [line for line in lines if "no patient id for 12 of 12 patients" in line]
    public = reports.pop("photo")
    assert public["salt"]["kind"] == "public"
    assert public["patients"]["note"] == ""
    assert told.pop("photo") == []
    for modality, report in reports.items():
        assert report["salt"]["kind"] == "file"
        assert "may be in different splits" in report["patients"]["note"]
        assert len(told[modality]) == 1
    hashed = {row["patient"] for row in _table(tmp_path / "XR")}
    assert not hashed & {row["patient"] for row in _table(tmp_path / "photo")}


def test_the_fingerprint_covers_the_grouping_into_patients_not_their_names(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=4)
    for name in ("renamed", "joined"):
        shutil.copytree(source, tmp_path / name)
    for p in range(4):
        for path in (tmp_path / "renamed" / f"p{p}").iterdir():
            _change(path, PatientID=f"other-{p}", StudyInstanceUID=f"1.99.{p}")
        for path in (tmp_path / "joined" / f"p{p}").iterdir():
            _change(path, PatientID=f"patient-{max(p, 1)}")
    for name in ("in", "renamed", "joined"):
        _build(tmp_path / name, tmp_path / f"out_{name}", splits=("train",))
    prints = {name: read_card(tmp_path / f"out_{name}").fingerprint for name in ("in", "renamed", "joined")}
    assert prints["in"] == prints["renamed"]
    assert prints["in"] != prints["joined"]
    assert len({row["patient"] for row in _table(tmp_path / "out_joined")}) == 3
