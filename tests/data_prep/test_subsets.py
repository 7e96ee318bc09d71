"""Fractions and k-shot lists: nested, by patient, with the class mix of the whole; what can't be had is said."""

from collections import Counter, defaultdict
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.build import build
from data_prep.header_pass import make_plan
from data_prep.plan import Plan
from data_prep.spec import Candidate, DatasetSpec, Row
from data_prep.subsets import COUNT_TOLERANCE, FRACTIONS, MIX_TOLERANCE, NO_FINDING, seats, write_subsets
from radnet_jax.data.card import read_card
from radnet_jax.data.subsets import subset_indices
from radnet_jax.preprocessing import StoredPixels
from tests.data_prep.dicom_files import source_of_patients

NAMES = tuple("abcdef")


def _spec(rows, task="single_label", labels=NAMES):
    return DatasetSpec(
        name="made_up",
        version="1.0.0",
        task=task,
        labels=labels,
        stored=StoredPixels("photo", "none", (0.0, 255.0), (8, 8), 1, "none", "uint8"),
        facts=(),
        candidates=lambda source: (Candidate(str(k)) for k in range(len(rows))),
        rows=lambda source, candidate: [rows[int(candidate.path)]],
        encode=lambda source, path, frame: None,
    )


def _row(k, patient, label):
    return Row(path=str(k), identity=f"image {k}", patient=patient, stratum=label, label=label)


def _subsets(folder, rows, *, seed=0, splits=None, skipped=(), **options):
    """The train rows as they would be written, the table of subsets, and what the build would report."""
    folder.mkdir()
    spec = _spec(rows, **options)
    make_plan(folder / "plan.sqlite", spec, Path(), splits or {"train": 1.0}, seed, "here", map, lambda n: None)
    with Plan(folder / "plan.sqlite") as plan:
        written = {
            split: [r for r in plan.rows(split) if split != "train" or r.order not in skipped]
            for split in splits or ("train",)
        }
    lines = [
        {"split": split, "index": k, "case_id": row.identity, "patient": row.patient}
        for split, found in written.items()
        for k, row in enumerate(found)
    ]
    pq.write_table(pa.Table.from_pylist(lines), folder / "manifest.parquet")
    made = write_subsets(folder, folder / "plan.sqlite", spec, skipped, seed)
    assert not list(folder.glob("subsets.*"))
    table = pq.read_table(folder / "splits.parquet").to_pylist()
    assert [{k: v for k, v in t.items() if k not in ("fraction", "shot")} for t in table] == lines
    return written["train"], [t for t in table if t["split"] == "train"], made


def _heavy_tailed(patients=6000, classes=6, seed=0):
    """Patients class by class, as in an archive sorted by body region; a few have very many slices, or two regions."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        label = p * classes // patients
        for _ in range(min(60, 1 + int(rng.pareto(1.2)))):
            other = rng.random() < 0.15 and p % 3 == 0
            rows.append(_row(len(rows), f"id {p}", (label + 1) % classes if other else label))
    return rows


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return _subsets(tmp_path_factory.mktemp("archive") / "a", _heavy_tailed())


def _shares(labels):
    counts = Counter(labels)
    return np.array([counts[k] for k in range(6)]) / len(labels)


def test_fractions_are_nested_by_patient_and_keep_the_class_mix(archive):
    written, table, made = archive
    fractions = np.array([t["fraction"] for t in table])
    patients = np.array([row.patient for row in written])
    labels = np.array([row.label for row in written])
    assert set(fractions) == set(FRACTIONS)
    for fraction in FRACTIONS:
        chosen = fractions <= fraction
        report = made.report["fractions"][f"{fraction:g}"]
        assert report["records"] == chosen.sum() == sum(report["labels"].values())
        assert report["patients"] == len(set(patients[chosen])) == 6000 * fraction
        departure = np.abs(_shares(labels[chosen]) - _shares(labels)).max()
        assert departure == pytest.approx(report["mix_departure"], abs=1e-6)
        met = departure <= MIX_TOLERANCE and chosen.sum() == pytest.approx(len(table) * fraction, rel=COUNT_TOLERANCE)
        assert met != (f" {fraction:g} has" in made.remark)
        assert met or fraction == 0.001  # six patients of heavy tails can't have the mean of all
        assert set(patients[chosen]).isdisjoint(patients[~chosen])  # a patient is in or out
    # the defect of a first study: the first files in order
    first = _shares(labels[: len(labels) // 100])
    assert np.abs(first - _shares(labels)).max() > 10 * MIX_TOLERANCE


def test_chance_alone_would_not_keep_the_mix(archive):
    """The tolerance is tight enough for the draws to matter: plain draws of as many patients often miss it."""
    written, _, _ = archive
    records = defaultdict(list)
    for row in written:
        records[row.patient].append(row.label)
    whole = _shares([row.label for row in written])
    rng = np.random.default_rng(0)
    names = sorted(records)
    misses = 0
    for _ in range(50):
        drawn = [label for p in rng.choice(names, 6, replace=False) for label in records[p]]
        misses += np.abs(_shares(drawn) - whole).max() > MIX_TOLERANCE
    assert misses > 40


def test_a_draw_depends_on_seed_and_names_alone(tmp_path):
    rows = _heavy_tailed(patients=300)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = [rows[k] for k in order]
    found = {}
    for name, given_rows, seed in (("a", rows, 0), ("b", rows, 0), ("c", shuffled, 0), ("d", rows, 1)):
        _, table, made = _subsets(tmp_path / name, given_rows, seed=seed)
        found[name] = made.content, {t["case_id"]: (t["fraction"], t["shot"]) for t in table}
    assert found["a"] == found["b"]
    assert found["a"][1] == found["c"][1]
    assert found["a"][1] != found["d"][1]
    assert found["a"][0] != found["d"][0]


def test_too_few_patients_give_one_of_each_class_and_it_is_said(tmp_path):
    rows = [_row(k, f"id {k // 5}", k // 5 % 3) for k in range(5 * 30)]
    _, table, made = _subsets(tmp_path / "a", rows)
    reached = {f: {t["patient"] for t in table if t["fraction"] <= f} for f in FRACTIONS}
    assert {f: len(p) for f, p in reached.items()} == {1.0: 30, 0.5: 15, 0.1: 3, 0.01: 3, 0.001: 3}
    report = made.report["fractions"]["0.001"]
    assert (report["patients"], report["patients_asked"]) == (3, 0.03)
    assert report["labels"] == {"a": 5, "b": 5, "c": 5}
    assert "0.1 has" not in made.remark
    assert "0.01 has 3 patients (asked 0.3), 15 records (asked 1.5)" in made.remark
    assert "0.001 has 3 patients (asked 0.03)" in made.remark


def test_a_mix_that_can_not_be_had_is_said(tmp_path):
    rows = [_row(k, f"id {k}", 0) for k in range(3000)]
    rows += [_row(3000 + k, "id large", 1) for k in range(1500)]  # one patient has all of a class
    _, _, made = _subsets(tmp_path / "a", rows)
    assert made.report["fractions"]["0.01"]["mix_departure"] > 0.5
    assert "0.01 has 31 patients (asked 30.01), 1530 records (asked 45)," in made.remark


def test_photographs_are_units_of_their_own(tmp_path):
    rows = [_row(k, "", k % 6) for k in range(6000)]
    written, table, made = _subsets(tmp_path / "a", rows)
    for fraction in FRACTIONS:
        labels = [row.label for row, t in zip(written, table, strict=True) if t["fraction"] <= fraction]
        assert Counter(labels) == dict.fromkeys(range(6), 1000 * fraction)
    assert made.remark == ""


def test_without_labels_there_are_fractions_and_no_shots(tmp_path):
    rows = [Row(path=str(k), identity=str(k), patient=f"id {k // 2}") for k in range(400)]
    _, table, made = _subsets(tmp_path / "a", rows, task="none", labels=())
    assert [sum(t["fraction"] <= f for t in table) for f in FRACTIONS] == [400, 200, 40, 4, 2]
    assert {t["shot"] for t in table} == {None}
    assert made.report["shots"] == {}
    assert "0.001 has 1 patients (asked 0.2), 2 records (asked 0.4)" in made.remark


def test_a_build_without_a_train_split_has_no_subsets(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=4)
    lines = []
    build("radnet", source, tmp_path / "out", size=16, splits=("test",), log=lines.append)
    report = json.loads((tmp_path / "out" / "build.json").read_text())["subsets"]
    assert (report["fractions"], report["shots"]) == ({}, {})
    assert len(subset_indices(tmp_path / "out", "test")) == 8
    assert not any("fraction" in line for line in lines)


def test_other_splits_are_whole(tmp_path):
    rows = [_row(k, f"id {k}", k % 6) for k in range(600)]
    splits = {"train": 0.5, "val": 0.2, "test": 0.3}
    _, table, _ = _subsets(tmp_path / "a", rows, splits=splits)
    others = [t for t in pq.read_table(tmp_path / "a" / "splits.parquet").to_pylist() if t["split"] != "train"]
    assert len(table) + len(others) == 600
    assert {(t["fraction"], t["shot"]) for t in others} == {(1.0, None)}


@settings(max_examples=200, deadline=None)
@given(sizes=st.dictionaries(st.integers(-1, 40), st.integers(1, 3000), min_size=1))
def test_seats_follow_the_shares(sizes):
    before, total = sizes, sum(sizes.values())
    for fraction in FRACTIONS:
        found = seats(sizes, before, fraction)
        assert all(found[s] <= before[s] for s in sizes)
        assert all(abs(found[s] - fraction * n) < 1 or (found[s] == 1 and s >= 0) for s, n in sizes.items())
        assert all(found[s] for s in sizes if s >= 0)
        asked = max(1, int(fraction * total + 0.5))
        least = sum(max(int(fraction * n + 1e-9), int(s >= 0)) for s, n in sizes.items())
        assert sum(found.values()) in (max(asked, least), asked - 1)
        if len(sizes) > 1 and asked >= least and -1 not in sizes:
            assert sum(found.values()) == asked
        before = found


def test_shots_take_another_patient_while_they_last(archive):
    written, table, made = archive
    by_class = defaultdict(list)
    for row, t in zip(written, table, strict=True):
        by_class[row.label].append((t["shot"], row.patient))
    assert made.report["shots"] == {NAMES[label]: len(found) for label, found in by_class.items()}
    for found in by_class.values():
        assert sorted(shot for shot, _ in found) == list(range(1, len(found) + 1))
        patients = [patient for _, patient in sorted(found)]
        n = len(set(patients))
        assert len(set(patients[:n])) == n  # one record of each before a second of any
        rounds = [patients[:k].count(patients[k]) for k in range(min(len(patients), 400))]
        assert rounds == sorted(rounds)


def test_shots_of_findings_hold_as_many_of_each_and_of_none(tmp_path):
    rng = np.random.default_rng(0)
    rows, names = [], ("x", "y", "z")
    for k in range(900):
        labels = tuple(int(v) for v in rng.random(3) < (0.05, 0.3, 0.4))
        mask = (1, 1, 1) if k % 10 else ((0, 0, 0) if k % 20 else (1, 1, 0))
        stratum = min((f for f in range(3) if labels[f] and mask[f]), default=3)
        rows.append(
            Row(
                path=str(k), identity=f"image {k}", patient=f"id {k // 3}", stratum=stratum, labels=labels,
                label_mask=mask,
            )
        )  # fmt: skip
    written, table, made = _subsets(tmp_path / "a", rows, task="multi_label", labels=names)
    labels = np.array([row.labels for row in written]) * np.array([row.label_mask for row in written])
    known = np.array([any(row.label_mask) for row in written])
    shots = np.array([t["shot"] or 0 for t in table])
    classes = {name: labels[:, f] == 1 for f, name in enumerate(names)} | {NO_FINDING: known & ~labels.any(1)}
    assert made.report["shots"] == {name: found.sum() for name, found in classes.items()}
    assert (shots[~known] == 0).all()
    assert (shots[known] > 0).all()
    patients = np.array([row.patient for row in written])
    for k in (1, 5, 10, 20):
        chosen = (shots > 0) & (shots <= k)
        for found in classes.values():
            assert (chosen & found).sum() >= k
            assert len(set(patients[chosen & found])) >= k
        assert chosen.sum() <= 4 * k
    assert made.report["fractions"]["1"]["labels"] == made.report["shots"]


def test_records_that_were_rejected_by_their_pixels_are_not_counted(tmp_path):
    rows = [_row(k, f"id {k // 4}", k // 4 % 6) for k in range(480)]
    skipped = [0, 1, 2, 3, 7, 100, 479]
    written, table, made = _subsets(tmp_path / "a", rows, skipped=skipped)
    assert len(table) == len(written) == 473
    assert made.report["fractions"]["1"]["patients"] == 119  # of one all images were rejected
    assert all(t["case_id"] == row.identity for t, row in zip(table, written, strict=True))
    fractions = {row.patient: t["fraction"] for row, t in zip(written, table, strict=True)}
    assert all(t["fraction"] == fractions[row.patient] for row, t in zip(written, table, strict=True))


def test_of_a_build(tmp_path, secret):
    source = source_of_patients(tmp_path / "in", patients=40, slices=3)
    lines = []
    for name, salt in (("one", secret), ("two", tmp_path / "salt")):
        (tmp_path / "salt").write_bytes(b"another secret of the tests")
        build("radnet", source, tmp_path / name, size=16, salt_file=salt, log=lines.append)
    one, two = (pq.read_table(tmp_path / name / "splits.parquet") for name in ("one", "two"))
    salted = ["case_id", "patient"]
    assert one.drop_columns(salted) == two.drop_columns(salted)
    assert one.column("patient") != two.column("patient")
    manifest = pq.read_table(tmp_path / "one" / "manifest.parquet")
    assert one.select(["split", "index", *salted]) == manifest.select(["split", "index", *salted])
    cards = [read_card(tmp_path / name) for name in ("one", "two")]
    assert cards[0].fingerprint == cards[1].fingerprint
    assert cards[0].splits_sha256 != cards[1].splits_sha256
    report = json.loads((tmp_path / "one" / "build.json").read_text())["subsets"]
    assert report["sha256"] == cards[0].splits_sha256
    assert report["fractions"]["0.1"]["patients"] == 6
    asked = report["fractions"]["1"]["patients"] / 10
    assert sum(f"fractions other than asked: 0.1 has 6 patients (asked {asked:g})" in line for line in lines) == 2
    assert len(subset_indices(tmp_path / "one", "train", fraction=0.1)) == 18
    assert not any(b"subsets.sqlite" in path.read_bytes() for path in (tmp_path / "one").glob("*.json"))
