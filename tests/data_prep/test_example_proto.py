"""Examples written by hand are those of TFDS's serializer, byte for byte."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_prep.example_proto import serialized

RAW = tfds.features.Encoding.BYTES


def _by_tfds(features, example):
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    return serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)


@pytest.mark.parametrize("label", [-1, 0, 1, 127, 128, 999])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_the_bytes_of_tfds(label, dtype):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(24, 20, 3), dtype=dtype, encoding=RAW),
            "segmentation": tfds.features.Tensor(shape=(24, 20), dtype=np.uint8, encoding=RAW),
            "findings": tfds.features.Tensor(shape=(5,), dtype=np.int8, encoding=RAW),
            "case_id": tfds.features.Text(),
            "patient": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=1000),
        }
    )
    rng = np.random.default_rng(0)
    example = {
        "image": rng.integers(0, 256, (24, 20, 3)).astype(dtype),
        "segmentation": rng.integers(0, 256, (24, 20)).astype(np.uint8),
        "findings": np.array([-1, 0, 1, 0, 1], np.int8),
        "case_id": "0123456789abcdef0123",
        "patient": "",
        "label": label,
    }
    assert serialized(example) == _by_tfds(features, example)
    turned = example | {"image": np.asfortranarray(example["image"])}
    assert serialized(turned) == serialized(example)
    big = example | {"image": example["image"].astype(example["image"].dtype.newbyteorder(">"))}
    assert serialized(big) == serialized(example)
