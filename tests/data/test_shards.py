import itertools
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from radnet_jax.data.dataset import open_split
from radnet_jax.data.pipeline import train_batches
from radnet_jax.data.shards import Shards
from radnet_jax.errors import UserError
from tests.data.written import write


@pytest.fixture
def dataset(ct_dataset, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(ct_dataset, tmp_path / "dataset")


def first_shard(folder):
    return next(iter(sorted(folder.glob("*-train.array_record-*"))))


def test_records_are_those_that_tfds_reads(ct_dataset):
    source = tfds.builder_from_directory(str(ct_dataset)).as_data_source("train")
    shards = Shards(ct_dataset, "train", len(source))
    for i in (0, 3, len(source) - 1):
        assert shards.read(i) == source.data_source[i]


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_record_that_is_not_there_is_no_record(ct_dataset, number):
    with pytest.raises(IndexError):
        open_split(ct_dataset, "train")[number]


def test_a_missing_shard_is_named_before_anything_is_read(dataset):
    first_shard(dataset).unlink()
    with pytest.raises(UserError, match=r"train.array_record-00000-of-.*build it anew"):
        open_split(dataset, "train")


def test_a_shard_that_disappears_later_is_named(dataset):
    split = open_split(dataset, "train")
    first_shard(dataset).unlink()
    with pytest.raises(UserError, match=r"train.array_record-00000-of-.*No such file.*build it anew"):
        split[0]


@pytest.mark.parametrize("damage", ["empty", "half", "no end", "other content", "of another split"])
def test_a_shard_that_is_no_shard_is_named(dataset, damage):
    path = first_shard(dataset)
    size = path.stat().st_size
    if damage == "other content":
        path.write_bytes(os.urandom(size))
    elif damage == "of another split":
        shutil.copy(next(iter(sorted(dataset.glob("*-val.array_record-*")))), path)
    else:
        os.truncate(path, {"empty": 0, "half": size // 2, "no end": size - 50}[damage])
    with pytest.raises(UserError, match=r"shard .*train.array_record-00000-of-.* is damaged.*build it anew"):
        next(train_batches(open_split(dataset, "train"), seed=0, batch_size=len(open_split(dataset, "train"))))


OPEN_ALL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
split = open_split(sys.argv[1], "train")
try:
    split.read_into(split.allocate(len(split)), 0, range(len(split)))
    print("all are open")
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("hard", "message"), [(4096, "all are open"), (80, "Too many open files.*ulimit -n")])
def test_more_shards_than_the_usual_limit_of_open_files(tmp_path, hard, message):
    write(tmp_path / "d", np.zeros((120, 8, 8, 1), np.uint8), shards=120)
    out = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, str(tmp_path / "d"), str(hard)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert re.search(message, out.stdout)


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


def test_a_damaged_record_stops_the_run_and_names_the_shard(dataset):
    path = first_shard(dataset)
    flip(path, path.stat().st_size // 4)
    split = open_split(dataset, "train")
    batches = train_batches(split, seed=0, batch_size=8, threads=2)
    with pytest.raises(UserError, match=r"train.array_record-00000-of-.*damaged; got record \d+ of split 'train'"):
        list(itertools.islice(batches, len(split) // 8 + 1))
    with pytest.raises(StopIteration):  # the iterator is over; it does not go on without the record
        next(batches)


def test_damage_is_never_read_as_something_else(dataset):
    """Any one byte of a shard may be wrong: the record reads as before, or is refused."""
    split = open_split(dataset, "train")
    before = [split[i]["image"].copy() for i in range(len(split))]
    path, rng = first_shard(dataset), np.random.default_rng(0)
    refused = []
    for at in rng.integers(0, path.stat().st_size, 40):
        flip(path, int(at))
        again = open_split(dataset, "train")
        for i, image in enumerate(before):
            try:
                now = again[i]["image"]
            except UserError as error:
                refused.append(str(error))
            else:
                np.testing.assert_array_equal(now, image)
        flip(path, int(at))
    assert len(refused) >= 10  # the rest fell on padding
    assert all(path.name in message for message in refused)


def test_metadata_that_does_not_fit_is_refused(dataset):
    info = dataset / "dataset_info.json"
    data = json.loads(info.read_text())
    next(s for s in data["splits"] if s["name"] == "train")["shardLengths"] = ["3"]
    info.write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not fit the dataset's card"):
        open_split(dataset, "train")
    info.write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        open_split(dataset, "train")
    info.unlink()
    with pytest.raises(UserError, match="can't be read"):
        open_split(dataset, "train")


def test_an_encoding_that_is_not_read_is_refused(dataset):
    path = dataset / "features.json"
    path.write_text(path.read_text().replace('"encoding": "bytes"', '"encoding": "zlib"'))
    with pytest.raises(UserError, match="encoded in a way that is not read"):
        open_split(dataset, "train")
