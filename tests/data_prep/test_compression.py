"""How records are compressed changes their size and nothing else."""

from array_record.python.array_record_module import ArrayRecordReader
import pytest
import tensorflow_datasets as tfds

from data_prep.build import build
from radnet_jax.errors import UserError
from tests.data_prep.dicom_files import source_of_patients


def image_bytes(folder):
    examples = tfds.builder_from_directory(folder).as_data_source(split="train")
    return [example["image"].tobytes() for example in examples]


def test_compression(tmp_path):
    """The records are the same, their size is not, and another compression is another build."""
    source = source_of_patients(tmp_path / "in", patients=12)
    made = {
        name: build("radnet", source, tmp_path / name[:4], size=16, log=str, compression=name)
        for name in ("zstd:1", "none")
    }
    assert made["none"].fingerprint == made["zstd:1"].fingerprint
    for name, option in (("zstd:1", "zstd:1"), ("none", "uncompressed")):
        (shard, *_) = (tmp_path / name[:4]).glob("*.array_record-*")
        assert option in ArrayRecordReader(str(shard)).writer_options_string()
    batches = [image_bytes(tmp_path / name[:4]) for name in made]
    assert batches[0] == batches[1]
    with pytest.raises(UserError, match="compression"):
        build("radnet", source, tmp_path / "none", size=16, log=str)
    with pytest.raises(UserError, match="compression; got gzip; expected zstd:1 or zstd:3 or none"):
        build("radnet", source, tmp_path / "gzip", size=16, log=str, compression="gzip")
