"""Subsets are read as they were built, or not at all."""

import dataclasses
import itertools
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from radnet_jax.data.card import read_card
from radnet_jax.data.dataset import open_split
from radnet_jax.data.labels import count_labels
from radnet_jax.data.subsets import open_subset, subset_indices
from radnet_jax.errors import UserError

FRACTIONS = (1.0, 0.5, 0.1, 0.01, 0.001)


def test_fractions_and_shots_are_nested_lists_of_records(ct_dataset):
    whole = subset_indices(ct_dataset, "train")
    np.testing.assert_array_equal(whole, np.arange(len(open_split(ct_dataset, "train"))))
    lists = [subset_indices(ct_dataset, "train", fraction=f) for f in FRACTIONS]
    np.testing.assert_array_equal(lists[0], whole)
    patients = np.array(open_split(ct_dataset, "train").manifest()["patient"])
    for larger, smaller in itertools.pairwise(lists):
        assert set(smaller) <= set(larger)
        assert (np.diff(smaller) > 0).all()
        assert set(patients[smaller]).isdisjoint(patients[np.setdiff1d(whole, smaller)])
    labels = open_split(ct_dataset, "train").all_labels()[0]
    before: set[int] = set()
    for k in (1, 2, 3, 5, 12):
        chosen = subset_indices(ct_dataset, "train", shots=k)
        np.testing.assert_array_equal(labels[chosen].sum(0), k)
        assert before <= set(chosen)
        before = set(chosen)
    assert len(set(patients[subset_indices(ct_dataset, "train", shots=3)])) == 18


def test_a_subset_is_a_split_of_its_own(ct_dataset):
    whole = open_split(ct_dataset, "train")
    for options in ({"fraction": 0.1}, {"shots": 3}):
        rows = subset_indices(ct_dataset, "train", **options)
        part = open_subset(ct_dataset, "train", **options)
        assert len(part) == len(rows) < len(whole)
        np.testing.assert_array_equal(part.all_labels()[0], whole.all_labels()[0][rows])
        assert part.manifest()["case_id"].to_pylist() == [whole.manifest()["case_id"][int(i)].as_py() for i in rows]
        for i in (0, len(rows) - 1):
            np.testing.assert_array_equal(part[i]["image"], whole[int(rows[i])]["image"])
            assert part[i]["index"] == i
        assert part != whole
        assert part.whole() == whole
    assert count_labels(open_subset(ct_dataset, "train", shots=3)).positive == (3,) * 6
    assert open_subset(ct_dataset, "train") == whole
    assert len({open_subset(ct_dataset, "train", shots=k) for k in (1, 2, 2)}) == 2


def test_labels_that_are_not_judged_are_unknown(ct_dataset):
    split = dataclasses.replace(open_split(ct_dataset, "test"), judged=("thorax",))
    mask = split.all_labels()[1]
    assert mask[:, split.card.labels.index("thorax")].all()
    assert mask.sum() == len(split)


def test_test_is_whole_and_has_no_subsets(ct_dataset):
    assert len(subset_indices(ct_dataset, "test")) == read_card(ct_dataset).splits["test"]
    for options in ({"fraction": 0.1}, {"shots": 1}):
        with pytest.raises(UserError, match="of the split 'train' only"):
            subset_indices(ct_dataset, "test", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.2}, "unknown fraction; got 0.2; expected one of 1, 0.5, 0.1, 0.01, 0.001"),
        ({"fraction": 0}, "unknown fraction"),
        ({"fraction": float("nan")}, "unknown fraction"),
        ({"shots": 0}, "at least 1"),
        ({"shots": 1.5}, "whole number"),
        ({"shots": True}, "whole number"),
        ({"shots": 1000}, "record"),
        ({"fraction": 0.1, "shots": 1}, "either a fraction or a k-shot list"),
    ],
)
def test_refusals(ct_dataset, options, message):
    with pytest.raises(UserError, match=message):
        subset_indices(ct_dataset, "train", **options)


def test_an_unknown_split(ct_dataset):
    with pytest.raises(UserError, match="no split 'training'"):
        subset_indices(ct_dataset, "training", fraction=0.1)


def test_a_changed_file_is_refused(ct_dataset, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ct_dataset, folder)
    assert len(subset_indices(folder, "train", fraction=0.1))
    path = folder / "splits.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(4, "fraction", table["fraction"].combine_chunks()[::-1]), path)
    with pytest.raises(UserError, match="is not what the build wrote"):
        subset_indices(folder, "train", fraction=0.1)
    path.unlink()
    with pytest.raises(UserError, match=r"no splits.parquet"):
        subset_indices(folder, "train", shots=1)


def test_an_older_dataset_has_no_subsets_and_is_whole(ct_dataset, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ct_dataset, folder)
    dataclasses.replace(read_card(folder), splits_sha256="").write(folder)
    assert len(subset_indices(folder, "train")) == read_card(folder).splits["train"]
    with pytest.raises(UserError, match="build the dataset anew"):
        subset_indices(folder, "train", fraction=0.1)
