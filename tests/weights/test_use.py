"""Three lines from raw images to features, and the table of a dataset's features."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.ingest.image import fit
import radnet_jax
from radnet_jax import trees
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.main import load_config
from radnet_jax.models import MODELS
from radnet_jax.weights import embedding, use
from tests.tiny import ROOT
from tests.weights import starts

SECTION = dict(name="resnet10", base_width=4)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return starts.start(tmp_path_factory.mktemp("photo"), SECTION)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return starts.start(tmp_path_factory.mktemp("ct"), SECTION, starts.CT)


def features(arrays, standardised):
    module = MODELS.build("resnet10", {"base_width": 4})
    return module.apply(trees.nested(arrays), jnp.asarray(standardised, jnp.float32), train=False)["pooled"]


def close(got, want):
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_photographs(photo):
    workdir, arrays = photo
    backbone = radnet_jax.load(str(workdir))
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), np.uint8)
    got = backbone(image)
    assert got.shape == (3, backbone.width) == (3, 32)
    assert got.dtype == np.float32
    padded = np.stack([fit(x, (32, 32), "pad_area", 0) for x in image]).astype(np.float32)
    unit = padded / 255
    want = features(arrays, (unit - starts.PHOTO["mean"]) / starts.PHOTO["std"])
    close(got, want)
    close(backbone(jnp.asarray(image)), want)
    close(backbone(image[1]), want[1:2])


def test_hounsfield_units(ct):
    workdir, arrays = ct
    backbone = radnet_jax.load(str(workdir))
    hu = np.random.default_rng(0).integers(-1000, 1000, (2, 24, 24)).astype(np.int16)
    unit = np.clip((hu[..., None] + 160.0) / 400, 0, 1)
    close(backbone(hu), features(arrays, np.repeat((unit - 0.4) / 0.3, 3, -1)))
    with pytest.raises(UserError, match="a HU window needs HU values"):
        backbone(np.zeros((24, 24), np.uint8))


def test_a_crossing_is_declared(photo):
    workdir, arrays = photo
    backbone = radnet_jax.load(str(workdir))
    hu = np.random.default_rng(0).integers(-1000, 1000, (2, 32, 32)).astype(np.int16)
    with pytest.raises(UserError, match=r"was trained on photo and is shown HU; declare the crossing"):
        backbone(hu)
    unit = np.clip((hu[..., None] + 160.0) / 400, 0, 1)
    want = features(arrays, (np.repeat(unit, 3, -1) - starts.PHOTO["mean"]) / starts.PHOTO["std"])
    close(backbone(hu, windows=((40, 400),)), want)


def test_any_number_of_images_and_three_programs(photo):
    backbone = radnet_jax.load(str(photo[0]))
    images = np.random.default_rng(0).integers(0, 256, (75, 32, 32, 1), np.uint8)
    whole = backbone(images)
    assert len(whole) == 75
    for n in (0, 1, 2, 5, 9):
        got = backbone(images[:n])
        assert got.shape == (n, 32)
        if n:
            close(got, whole[:n])
    (compiled,) = [backbone._compiled(backbone._adapter(images, None, "pad_area"))]
    assert compiled._cache_size() == 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32), np.float32), "got float32; expected int16"),
        (np.zeros((1, 32, 32, 4), np.uint8), "unknown shape"),
        (np.zeros(5, np.uint8), "unknown shape"),
        (np.array(["a"]), "got <U1"),
        ([np.zeros((3, 3), np.uint8), np.zeros((4, 4), np.uint8)], "images of several sizes in one call"),
    ],
)
def test_other_images_are_refused(photo, image, message):
    with pytest.raises(UserError, match=message):
        radnet_jax.load(str(photo[0]))(image)


def test_the_order_of_bytes_changes_nothing(ct):
    backbone = radnet_jax.load(str(ct[0]))
    hu = np.random.default_rng(0).integers(-1000, 1000, (1, 24, 24)).astype(np.int16)
    np.testing.assert_array_equal(backbone(hu.astype(">i2")), backbone(hu))


@pytest.mark.parametrize("windows", [((40, 0),), ((40, -400),), (40, 400), "lung", ((float("nan"), 400),)])
def test_what_is_no_window_is_refused(ct, windows):
    with pytest.raises(UserError, match="not a window; got"):
        radnet_jax.load(str(ct[0]))(np.zeros((24, 24), np.int16), windows=windows)


def test_names_are_looked_up(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("RADNET_JAX_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        radnet_jax.load("moco_v2")
    assert f"--config.source=moco_v2 --config.file=FILE --workdir={tmp_path}/moco_v2" in str(caught.value)
    (tmp_path / "mine").symlink_to(photo[0])
    assert radnet_jax.load("mine").width == 32
    with pytest.raises(UserError, match='did you mean "mine"'):
        radnet_jax.load("mime")
    with pytest.raises(UserError, match="holds no weights"):
        radnet_jax.load(str(tmp_path))


def test_the_package_alone_is_light():
    code = "import sys, radnet_jax; radnet_jax.load; assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_features_of_a_dataset(ct, ct_dataset, tmp_path):
    config = load_config(ROOT / "configs/embed.py").copy_and_resolve_references()
    config.unlock()
    config.init_from, config.data.dir, config.eval_batch_size = str(ct[0]), str(ct_dataset), 16
    path = embedding.run(config.lock(), tmp_path)
    table = pq.read_table(path)
    assert table.num_rows == 144
    assert {"split", "case_id", "patient", "labels", "features"} <= set(table.column_names)
    split = open_split(ct_dataset, "val")
    rows = table.filter(pc.equal(table["split"], "val"))
    assert rows["case_id"].to_pylist() == split.manifest()["case_id"].to_pylist()
    images = np.stack([split[i]["image"] for i in range(len(split))])
    got = np.stack(rows["features"].to_pylist())
    close(got, radnet_jax.load(str(ct[0]))(images))
    assert embedding.run(config, tmp_path) == path
    with config.unlocked():
        config.splits = ("vall",)
    with pytest.raises(UserError, match='did you mean "val"'):
        embedding.run(config, tmp_path)
    with config.unlocked():
        config.splits = ("val",)
    with pytest.raises(UserError, match="of another start, dataset or adapter"):
        embedding.run(config, tmp_path)


def test_cuts():
    assert use._cuts(0) == []
    assert use._cuts(1) == [(0, 1, 1)]
    assert use._cuts(9) == [(0, 9, 64)]
    assert use._cuts(65) == [(0, 64, 64), (64, 1, 1)]
    assert jax.tree.leaves(use._cuts(130))[-3:] == [128, 2, 8]
