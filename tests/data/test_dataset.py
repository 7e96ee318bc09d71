import numpy as np
import pytest

from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError


def test_records_and_manifest_are_in_the_same_order(ct_dataset):
    split = open_split(ct_dataset, "train")
    labels, mask = split.all_labels()
    assert labels.shape == mask.shape == (len(split), 6)
    for i in (0, 7, len(split) - 1):
        example = split[i]
        assert example["image"].shape == (24, 24, 1)
        assert example["image"].dtype == np.int16
        assert example["index"] == i
        np.testing.assert_array_equal(example["labels"], labels[i])


def test_splits_share_no_patient(ct_dataset):
    patients = [set(open_split(ct_dataset, s).manifest()["patient"].to_pylist()) for s in ("train", "val", "test")]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_an_unknown_split_is_refused(ct_dataset):
    with pytest.raises(UserError, match='did you mean "train"'):
        open_split(ct_dataset, "trian")


def test_a_broken_card_is_refused(tmp_path):
    (tmp_path / "card.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="can't be read"):
        open_split(tmp_path, "train")
