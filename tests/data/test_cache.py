"""Datasets of object stores through a local copy."""

import json
import multiprocessing

import numpy as np
import pytest

from radnet_jax.data import cache, storage
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path, ct_dataset, monkeypatch):
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    root = f"file://{tmp_path}/store/ct" if request.param == "file" else "memory://bucket/ct"
    for path in ct_dataset.iterdir():
        if path.is_file():
            storage.put(path, storage.join(root, path.name))
    yield root
    storage.remove(root)


def test_the_copy_reads_as_the_dataset(url, ct_dataset, tmp_path):
    there, here = open_split(url, "train"), open_split(ct_dataset, "train")
    assert there.card == here.card
    assert there.manifest().equals(here.manifest())
    for i in (0, len(here) - 1):
        for key, value in here[i].items():
            np.testing.assert_array_equal(there[i][key], value)
    shards = [p.name for p in (tmp_path / "cache").rglob("*.array_record-*")]
    assert shards
    assert all("-train." in name for name in shards)  # of the split that was asked for
    open_split(url, "test")
    assert any("-test." in p.name for p in (tmp_path / "cache").rglob("*.array_record-*"))


def test_a_copy_is_made_once(url, tmp_path, monkeypatch):
    open_split(url, "train")
    fetched = []
    monkeypatch.setattr(storage, "fetch", lambda *args: fetched.append(args))
    open_split(url, "train")
    assert not fetched


def test_what_the_dataset_does_not_state_is_refused(url, tmp_path):
    name = next(n for n, _, _ in storage.listing(url) if "-train." in n)
    good = storage.read_bytes(storage.join(url, name))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (bytes(flipped), good[:-1]):
        storage.write_bytes(storage.join(url, name), bad)
        with pytest.raises(UserError, match="is not what its dataset states"):
            open_split(url, "train")
    storage.remove(storage.join(url, name))
    with pytest.raises(UserError, match="is not what its dataset states"):
        open_split(url, "train")
    storage.write_bytes(storage.join(url, name), good)
    assert len(open_split(url, "train"))


def test_a_dataset_that_changed_has_a_copy_of_its_own(url, tmp_path):
    before = open_split(url, "train").folder
    sums = json.loads(storage.read_bytes(storage.join(url, cache.SUMS_FILE)))
    storage.write_bytes(storage.join(url, cache.SUMS_FILE), json.dumps(sums).encode() + b"\n")
    assert open_split(url, "train").folder != before


def test_no_dataset_and_no_room(url, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no dataset in memory://bucket/none"):
        open_split("memory://bucket/none", "train")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=f"no room .*{cache.CACHE_VARIABLE}"):
        open_split(url, "train")


def _open(url):
    return len(open_split(url, "train")), str(open_split(url, "train").folder)


def test_processes_of_a_machine_share_one_copy(url):
    if url.startswith("memory"):
        pytest.skip("a store in memory is of one process")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        opened = pool.map(_open, [url] * 3)
    assert len(set(opened)) == 1
