"""Object stores, stood for by two of fsspec's own: one in memory, one in a folder."""

import pytest

from radnet_jax.data import storage
from radnet_jax.errors import UserError


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    root = f"file://{tmp_path}/store" if request.param == "file" else "memory://bucket/store"
    yield root
    storage.remove(root)


def test_what_is_a_url(tmp_path):
    assert storage.is_remote("gs://bucket/a")
    assert storage.is_remote("s3a://bucket")
    assert not any(map(storage.is_remote, ("/a/b", "a/b", "C:\\a", tmp_path, "a:b")))


def test_files_come_and_go(url, tmp_path):
    assert storage.read_bytes(storage.join(url, "a/b")) is None
    assert storage.size(storage.join(url, "a/b")) is None
    assert not storage.holds_anything(url)
    storage.write_bytes(storage.join(url, "a/b"), b"123")
    (tmp_path / "local").write_bytes(b"45")
    storage.put(tmp_path / "local", storage.join(url, "c"))
    assert storage.read_bytes(storage.join(url, "a/b")) == b"123"
    assert storage.size(storage.join(url, "c")) == 2
    assert sorted(entry[:2] for entry in storage.listing(url)) == [("a/b", 3), ("c", 2)]
    storage.fetch(url, ["a/b", "missing", "c"], tmp_path / "here")
    assert (tmp_path / "here" / "a" / "b").read_bytes() == b"123"
    assert (tmp_path / "here" / "c").read_bytes() == b"45"
    assert not (tmp_path / "here" / "missing").exists()
    assert storage.holds_anything(url)
    storage.remove(url)
    assert storage.read_bytes(storage.join(url, "c")) is None


def test_another_version_has_another_stamp(url):
    stamps = []
    for content in (b"1", b"2"):
        storage.write_bytes(storage.join(url, "a"), content)
        stamps += [stamp for _, _, stamp in storage.listing(url)]
    assert len(set(stamps)) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/a", "there is no folder"),
        ("nonsense://bucket/a", "can't be read"),
        ("dvc://bucket/a/patient", r"dvc://bucket needs a package that is not installed; pip install"),
    ],
)
def test_one_line_for_what_the_user_can_mend(url, message):
    with pytest.raises(UserError, match=message) as error:
        list(storage.listing(url))
    assert "patient" not in str(error.value)


def test_a_store_that_fails_names_the_bucket_only(url, monkeypatch):
    class BrokenError(Exception):
        pass

    def broken(*args, **kwargs):
        raise BrokenError("Mueller^Hans")

    import fsspec

    monkeypatch.setattr(fsspec.core, "url_to_fs", broken)
    with pytest.raises(UserError, match="can't be reached; got BrokenError") as error:
        storage.read_bytes("memory://bucket/Mueller/a")
    assert "Mueller" not in str(error.value)
    monkeypatch.undo()
