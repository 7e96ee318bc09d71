"""TFDS builders of the datasets: the same features, splits and examples as the command gives."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from data_prep import tfds_builders
from data_prep.build import build
from data_prep.hashing import SALT_VARIABLE
from data_prep.miniatures import MINIATURES, write_miniature
from data_prep.spec import DATASETS
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import source_of_patients


def _examples(source):
    return {
        example["case_id"]: {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in example.items()}
        for example in source
    }


def _compare(name, source, tmp_path, **options):
    build(name, source, tmp_path / "built", size=16, **options)
    folder = tfds.builder_from_directory(tmp_path / "built")
    builder = tfds_builders.builder(name, source=source, size=16, data_dir=tmp_path / "data", options=options)
    assert builder.info.name == folder.info.name == name
    assert str(builder.info.version) == str(folder.info.version)
    assert repr(builder.info.features) == repr(folder.info.features)
    builder.download_and_prepare()
    for split in ("train", "val", "test"):
        assert _examples(builder.as_data_source(split)) == _examples(folder.as_data_source(split))
    again = tfds.builder_from_directory(builder.data_dir)
    assert {s: i.num_examples for s, i in again.info.splits.items()} == {
        s: i.num_examples for s, i in folder.info.splits.items()
    }


def test_ct_slices(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=18, slices=2)
    (source / "p0" / "bad.dcm").write_bytes(b"no image" * 100)
    _compare("radnet", source, tmp_path)


def test_findings_and_masks(tmp_path):
    _compare("chestxray14", write_miniature("chestxray14", tmp_path / "in"), tmp_path, view="14")


def test_the_data_source_of_a_built_dataset_opens_by_its_folder(tmp_path):
    source = source_of_patients(tmp_path / "in", patients=6)
    build("radnet", source, tmp_path / "built", size=16)
    split = tfds.builder_from_directory(tmp_path / "built").as_data_source("train")
    assert split[0]["image"].shape == (16, 16, 1)


@pytest.mark.parametrize("name", sorted(set(MINIATURES.names()) & set(DATASETS.names())))
def test_every_dataset_has_a_class_and_its_features(name, tmp_path):
    source = write_miniature(name, tmp_path / "in")
    builder = tfds_builders.builder(name, source=source, size=16, data_dir=tmp_path / "data")
    assert builder.name == name
    assert set(builder.info.features) >= {"image", "case_id", "patient"}
    assert type(builder).__doc__
    assert name not in registered._DATASET_REGISTRY  # where TFDS may have a dataset of that name


def test_refusals(tmp_path, monkeypatch):
    source = source_of_patients(tmp_path / "in", patients=3)
    with pytest.raises(UserError, match='did you mean "radnet"'):
        tfds_builders.builder_cls("radnett")
    monkeypatch.delenv(SALT_VARIABLE)
    with pytest.raises(UserError, match="no salt"):
        tfds_builders.builder("radnet", source=source, data_dir=tmp_path / "data")
