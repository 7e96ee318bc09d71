"""Patients are divided without overlap, by stratum, as the seed says."""

from collections import Counter
import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from data_prep import splits
from data_prep.splits import Patient, check_splits, majority
from radnet_jax.errors import UserError

THREE = {"train": 0.7, "val": 0.1, "test": 0.2}


def assign(patients, fractions, seed):
    """{patient: split} as the plan holds it."""
    database = sqlite3.connect(":memory:")
    splits.assign(database, patients, fractions, seed)
    return dict(database.execute("SELECT patient, split FROM patients"))


def _patients(sizes, pool=""):
    return [Patient(f"{stratum}-{i}", pool, stratum) for stratum, n in sizes.items() for i in range(n)]


def test_each_stratum_is_divided_by_the_fractions():
    split = assign(_patients({0: 20, 1: 30, -1: 10}), THREE, 0)
    for stratum, n in {0: 20, 1: 30, -1: 10}.items():
        counts = Counter(split[f"{stratum}-{i}"] for i in range(n))
        assert counts == {"train": 0.7 * n, "val": 0.1 * n, "test": 0.2 * n}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.dictionaries(st.integers(-1, 30), st.integers(1, 25), min_size=1),
    seed=st.integers(0, 5),
)
def test_any_population_is_divided_whole_and_near_the_fractions(sizes, seed):
    patients = _patients(sizes)
    if len(patients) < 3:
        with pytest.raises(UserError, match="--splits=train"):
            assign(patients, THREE, seed)
        return
    split = assign(patients, THREE, seed)
    assert set(split) == {p.key for p in patients}
    counts = Counter(split.values())
    assert set(counts) == set(THREE)
    for stratum, n in sizes.items():
        if stratum >= 0 and n >= 3:
            assert len({split[f"{stratum}-{i}"] for i in range(n)}) == 3
    if all(n >= 10 for n in sizes.values()):
        for name, share in THREE.items():
            assert abs(counts[name] - share * len(patients)) <= 1 + 0.5 * len(sizes)


def test_one_patient_a_stratum_still_gives_the_fractions():
    counts = Counter(assign(_patients(dict.fromkeys(range(100), 1)), THREE, 3).values())
    assert counts == {"train": 70, "val": 10, "test": 20}


def test_the_seed_decides_and_the_order_of_input_does_not():
    patients = _patients({0: 20, 1: 20})
    first = assign(patients, THREE, 0)
    assert assign(patients[::-1], THREE, 0) == first
    assert assign(patients, THREE, 1) != first


def test_pools_bind_patients_to_splits():
    patients = [
        *_patients({0: 20}, "train+val"),
        *[p._replace(key="t" + p.key) for p in _patients({0: 5}, "test")],
    ]
    split = assign(patients, THREE, 0)
    assert {split[p.key] for p in patients if p.pool == "test"} == {"test"}
    counts = Counter(split[p.key] for p in patients if p.pool == "train+val")
    assert set(counts) == {"train", "val"}
    assert counts["val"] == pytest.approx(20 / 8, abs=1)
    alone = assign(patients, {"train": 1.0}, 0)
    assert set(alone) == {p.key for p in patients if p.pool == "train+val"}  # the official test list never trains


def test_majority_label():
    assert majority({-1: 50, 2: 3, 4: 5}) == 4
    assert majority({3: 2, 1: 2}) == 1
    assert majority({-1: 4}) == -1


def test_refusals():
    with pytest.raises(UserError, match="--splits=train"):
        assign(_patients({0: 2}), THREE, 0)
    with pytest.raises(UserError, match="'val' would be empty"):
        assign(_patients({0: 9}, "train"), {"train": 0.5, "val": 0.5}, 0)
    for names, fractions in [
        (("train", "train"), None),
        (("dev",), None),
        ((), None),
        (("train", "val"), (0.5, 0.6)),
        (("train", "val"), (1.0,)),
        (("train", "val"), (1.0, 0.0)),
    ]:
        with pytest.raises(UserError):
            check_splits(names, fractions)
    assert check_splits(("train",), None) == {"train": 1.0}
    assert check_splits(("train", "test"), None) == {"train": pytest.approx(7 / 9), "test": pytest.approx(2 / 9)}
