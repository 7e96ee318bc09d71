"""Builds over object stores: the same bytes as on local folders, one line for what the user can mend."""

import os
import pickle

import pytest

from data_prep import build as build_module
from data_prep import shards, staging
from data_prep import source as source_module
from data_prep.build import build, main
from data_prep.miniatures import MINIATURES, write_miniature
from data_prep.units import Places, make_unit, run_unit
from radnet_jax.data import storage
from radnet_jax.data.cache import CACHE_VARIABLE
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import source_of_patients


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = source_of_patients(tmp_path_factory.mktemp("source") / "in", patients=18, slices=2)
    (folder / "p0" / "bad.dcm").write_bytes(b"no image" * 100)
    return folder


@pytest.fixture
def store(tmp_path, source, monkeypatch):
    """A folder as an object store, with the raw files in it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store"
    _upload(source, storage.join(url, "raw"))
    return url


def _upload(folder, url):
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put(path, storage.join(url, path.relative_to(folder).as_posix()))


def test_over_a_store_the_same_bytes(source, store, tmp_path):
    build("radnet", source, tmp_path / "near", size=16)
    card = build("radnet", f"{store}/raw", f"{store}/out", size=16)
    assert files(tmp_path / "store" / "out") == files(tmp_path / "near")
    lines = []
    assert build("radnet", f"{store}/raw", f"{store}/out", size=16, log=lines.append) == card
    assert "already built" in lines[0]
    with pytest.raises(UserError, match="built differently"):
        build("radnet", f"{store}/raw", f"{store}/out", size=24)
    assert not any(p.is_file() for p in (tmp_path / "cache").rglob("*"))  # nothing is left here


def test_only_one_of_the_two_in_a_store(source, store, tmp_path):
    build("radnet", f"{store}/raw", tmp_path / "here", size=16)
    build("radnet", source, f"{store}/out", size=16)
    assert files(tmp_path / "store" / "out") == files(tmp_path / "here")


def test_a_store_in_memory(source, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    _upload(source, "memory://bucket/raw")
    build("radnet", "memory://bucket/raw", "memory://bucket/out", size=16)
    build("radnet", source, tmp_path / "near", size=16)
    for name, content in files(tmp_path / "near").items():
        assert storage.read_bytes(f"memory://bucket/out/{name}") == content, name
    storage.remove("memory://bucket")


class _in_process:  # noqa: N801 (stands for a function)
    """The pool's map without its processes."""

    def __init__(self, workers, limits):
        pass

    def __enter__(self):
        return map

    def __exit__(self, *error):
        pass


def test_a_killed_build_goes_on_over_a_store(source, store, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 4)
    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    build("radnet", source, tmp_path / "near", size=16)
    real, done = shards.write_shard, []

    def dying(task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task)
        return real(task)

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            build("radnet", f"{store}/raw", f"{store}/out", size=16)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "out").glob("*.array_record-*")}
    assert len(written) == 3
    with pytest.raises(UserError, match="unfinished build of other options"):
        build("radnet", f"{store}/raw", f"{store}/out", size=24)
    build("radnet", f"{store}/raw", f"{store}/out", size=16)
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert files(tmp_path / "store" / "out") == files(tmp_path / "near")


def test_a_unit_holds_no_salt_and_demands_the_same_one(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    kept = []
    monkeypatch.setattr(build_module, "write_shard", lambda task: kept.append(task) or shards.write_shard(task))
    secret = tmp_path / "salt"
    secret.write_bytes(b"a secret that is on no disk but this")
    places = Places(str(source), str(tmp_path / "out"), str(secret))

    def unit(task):
        made = make_unit(shards.write_shard, task, places)
        assert secret.read_bytes() not in pickle.dumps(made)
        assert run_unit(made).result.sha256 == shards.write_shard(task).sha256
        secret.write_bytes(b"another secret, of another build...")
        with pytest.raises(UserError, match="another salt"):
            run_unit(made)
        secret.write_bytes(b"a secret that is on no disk but this")
        return shards.write_shard(task)

    monkeypatch.setattr(build_module, "write_shard", unit)
    build("radnet", source, tmp_path / "out", size=16, salt_file=secret)


def test_a_mirror_is_names_sizes_and_tables(store, tmp_path, monkeypatch):
    storage.write_bytes(f"{store}/raw/list.csv", b"a,b\n")
    monkeypatch.setattr(staging, "SMALL", 100)
    with staging.mirror(f"{store}/raw") as (folder, is_whole):
        assert not is_whole
        assert (folder / "list.csv").read_bytes() == b"a,b\n"
        image = folder / "p0" / "0.dcm"
        assert image.stat().st_size == (tmp_path / "store" / "raw" / "p0" / "0.dcm").stat().st_size
        assert not any(image.read_bytes())
        before = image.stat().st_mtime_ns
    monkeypatch.undo()
    with staging.mirror(f"{store}/raw") as (folder, is_whole):
        assert is_whole
        assert (folder / "p0" / "0.dcm").stat().st_mtime_ns == before
        assert any((folder / "p0" / "0.dcm").read_bytes())
    assert not folder.exists()


def _refused(capsys, *flags):
    assert main(list(flags)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_refusals(store, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert "there is no folder" in _refused(capsys, "--dataset=radnet", "--source=memory://none/a", out)
    assert "needs a package" in _refused(capsys, "--dataset=radnet", "--source=dvc://bucket/a", out)
    assert "inside source" in _refused(capsys, "--dataset=radnet", f"--source={store}/raw", f"--out={store}/raw/out")
    storage.write_bytes(f"{store}/full/thesis.doc", b"text")
    assert "not empty" in _refused(capsys, "--dataset=radnet", f"--source={store}/raw", f"--out={store}/full")
    _upload(write_miniature("brats", tmp_path / "brats"), f"{store}/brats")
    assert "reads several files" in _refused(capsys, "--dataset=brats", f"--source={store}/brats", out)
    assert "--runner=beam" in _refused(
        capsys, "--dataset=radnet", f"--source={store}/raw", out, "--beam_options=--runner=x"
    )
    assert "expected local or beam" in _refused(
        capsys, "--dataset=radnet", f"--source={store}/raw", out, "--runner=spark"
    )
    assert not os.path.exists(tmp_path / "out")


SINGLE = (
    "image_folder",
    "table",
    "chestxray14",
    "chexpert",
    "imagenet",
    "inaturalist",
    "mimic_cxr",
    "rsna_pe",
    "vindr_cxr",
)


@pytest.mark.parametrize("name", [n for n in SINGLE if n in MINIATURES.names()])
def test_every_dataset_of_single_files_is_the_same_over_a_store(name, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "ordered_map", _in_process)
    for module in (staging, source_module):
        monkeypatch.setattr(module, "SMALL", 0)  # as if it were too large to bring here
    source = write_miniature(name, tmp_path / "in")
    _upload(source, f"file://{tmp_path}/store/raw")
    options = {"size": 16, "splits": ("train",)} if name == "mimic_cxr" else {"size": 16}
    near, there = build(name, source, tmp_path / "near", **options), tmp_path / "there"
    far = build(name, f"file://{tmp_path}/store/raw", there, **options)
    assert far.splits == near.splits
    for path in sorted((tmp_path / "near").glob("*.array_record-*")):
        assert (there / path.name).read_bytes() == path.read_bytes()


def test_an_idle_worker_with_another_salt_is_not_hired(source, store, tmp_path, monkeypatch):
    """Two builds of one process: the second's secret is not the one that the first's workers were started with."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(f"a secret of thirty bytes, {name}".encode())
        monkeypatch.setenv("RADNET_JAX_SALT_FILE", str(tmp_path / name))
        build("radnet", f"{store}/raw", f"{store}/{name}", size=16)
