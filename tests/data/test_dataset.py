import dataclasses
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from radnet_jax.data.card import Member
from radnet_jax.data.dataset import open_split
from radnet_jax.data.labels import count_mask_classes
from radnet_jax.errors import UserError
from tests.data.written import write


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
        np.testing.assert_array_equal(example["label_mask"], mask[i])


def random_images(rng, n, shape=(9, 12, 1), dtype=np.uint8):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (n, *shape), dtype, endpoint=True)


def tfds_source(split):
    return tfds.builder_from_directory(str(split.folder)).as_data_source("train")


def read(split, order):
    batch = split.allocate(len(order))
    split.read_into(batch, 0, order)
    return batch


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.int16), (3, np.uint8), (1, np.uint16)])
def test_classes_and_raw_pixels_are_those_that_tfds_reads(tmp_path, channels, dtype):
    rng = np.random.default_rng(0)
    images = random_images(rng, 11, (9, 12, channels), dtype)
    classes = [2, -1, 0, 1, 1, -1, 2, 0, 0, 1, 2]
    split = write(tmp_path / "d", images, task="single_label", labels=("a", "b", "c"), fields={"label": classes})
    order = rng.permutation(11).tolist()
    batch, source = read(split, order), tfds_source(split)
    for row, i in enumerate(order):
        np.testing.assert_array_equal(batch["image"][row], source[i]["image"])
        assert source[i]["label"] == classes[i]
        assert batch["labels"][row].tolist() == [float(classes[i] == k) for k in range(3)]
        assert batch["label_mask"][row].tolist() == [float(classes[i] >= 0)] * 3
    assert batch["index"].tolist() == order
    assert batch["image"].dtype == dtype


def test_findings_and_masks_are_those_that_tfds_reads(tmp_path):
    rng = np.random.default_rng(1)
    fields = {name: rng.integers(0, 2, (7, 200)).astype(np.int8) for name in ("labels", "label_mask")}
    masks = random_images(rng, 7, (9, 12))
    names = [f"finding {i}" for i in range(200)]
    split = write(
        tmp_path / "d", random_images(rng, 7), task="multi_label", labels=names, fields=fields, masks=masks, shards=2
    )
    batch, source = read(split, [6, 0, 3]), tfds_source(split)
    for row, i in enumerate([6, 0, 3]):
        for name in ("image", "segmentation", "labels", "label_mask"):
            np.testing.assert_array_equal(batch[name][row], source[i][name])


@pytest.mark.parametrize(
    ("codec", "channels", "dtype"),
    [("png", 1, np.uint8), ("png", 3, np.uint8), ("png", 1, np.uint16), ("jpeg", 1, np.uint8), ("jpeg", 3, np.uint8)],
)
def test_encoded_images_are_those_that_tfds_reads(tmp_path, codec, channels, dtype):
    split = write(tmp_path / "d", random_images(np.random.default_rng(2), 5, (9, 12, channels), dtype), codec=codec)
    batch, source = read(split, range(5)), tfds_source(split)
    for i in range(5):
        np.testing.assert_array_equal(batch["image"][i], source[i]["image"])


def test_a_part_of_a_batch_is_left_as_it_was(tmp_path):
    images = random_images(np.random.default_rng(3), 6)
    split = write(tmp_path / "d", images)
    batch = split.allocate(4)
    batch["image"][:] = 7
    split.read_into(batch, 1, [5, 2])
    np.testing.assert_array_equal(batch["image"][1:3], images[[5, 2]])
    assert (batch["image"][[0, 3]] == 7).all()
    assert not batch["labels"].size


@pytest.mark.parametrize(
    "change", [{"labels": ("a",)}, {"task": "multi_label"}, {"size": (12, 12)}, {"dtype": "int16"}]
)
def test_records_that_are_not_what_the_card_says_are_refused(tmp_path, change):
    fields = {"label": [0, 1, 2, 0]}
    images = random_images(np.random.default_rng(4), 4)
    write(tmp_path / "d", images, task="single_label", labels=("a", "b", "c"), fields=fields)
    path = tmp_path / "d" / "card.json"
    text = path.read_text()
    for name, value in change.items():
        text = text.replace(*{
            "labels": ('"b",\n    "c"', '"b"'),
            "task": ('"single_label"', '"multi_label"'),
            "size": ("9,\n", "12,\n"),
            "dtype": ('"uint8"', '"int16"'),
        }[name])  # fmt: skip
        assert text != path.read_text(), value
    path.write_text(text)
    split = open_split(tmp_path / "d", "train")
    with pytest.raises(UserError, match="is damaged; got record"):
        read(split, range(4))


def test_members_of_a_mixture_are_ranges_of_the_split(ct_dataset):
    split = open_split(ct_dataset, "train")
    assert split.members() == ()
    counts = [{"train": 10, "val": 3}, {"val": 2}, {"train": 32}]
    made = [Member(f"m{i}", 0.5 + i, "0", splits, "") for i, splits in enumerate(counts)]
    mixture = dataclasses.replace(split.card, members=tuple(made), splits={"train": 42, "val": 5})
    assert dataclasses.replace(split, card=mixture).members() == ((0, 10, 0.5), (10, 42, 2.5))
    assert dataclasses.replace(split, card=mixture, name="val").members() == ((0, 3, 0.5), (3, 5, 1.5))


def test_a_split_can_be_sent_to_another_process(ct_dataset):
    split = open_split(ct_dataset, "train")
    again = pickle.loads(pickle.dumps(split))
    assert again == split
    np.testing.assert_array_equal(again[3]["image"], split[3]["image"])


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


def test_whether_a_class_stands_in_any_mask(tmp_path):
    images, masks = np.zeros((150, 4, 4, 1), np.uint8), np.zeros((150, 4, 4), np.uint8)
    masks[:, 0] = 255  # unknown is no class
    assert count_mask_classes(write(tmp_path / "none", images, masks=masks)).positive == (0,)
    masks[77, 3, 2] = 1
    assert count_mask_classes(write(tmp_path / "one", images, masks=masks)).positive == (1,)
