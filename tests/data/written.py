"""Writes small datasets as `data_prep` does, with any encoding of the images, for tests of the reader."""

from array_record.python.array_record_module import ArrayRecordWriter
import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.preprocessing import StoredPixels

RAW = tfds.features.Encoding.BYTES


def write(folder, images, *, codec="raw", task="none", labels=(), fields=None, masks=None, shards=3) -> Split:
    """Writes split "train" of `images [n h w c]`; `fields` holds the label columns of the task."""
    n, *shape = images.shape
    columns, features = {"image": images, **(fields or {})}, {}
    if codec == "raw":
        features["image"] = tfds.features.Tensor(shape=shape, dtype=images.dtype, encoding=RAW)
    else:
        features["image"] = tfds.features.Image(shape=shape, dtype=images.dtype, encoding_format=codec)
        columns["image"] = [cv2.imencode(f".{codec}", image[..., ::-1])[1].tobytes() for image in images]
    if task == "single_label":
        features["label"] = tfds.features.ClassLabel(names=list(labels))
    elif task == "multi_label":
        for name in ("labels", "label_mask"):
            features[name] = tfds.features.Tensor(shape=(len(labels),), dtype=np.int8, encoding=RAW)
    if masks is not None:
        features["segmentation"] = tfds.features.Tensor(shape=shape[:2], dtype=np.uint8, encoding=RAW)
        columns["segmentation"] = masks
    features["case_id"] = tfds.features.Text()
    columns["case_id"] = [f"case {'x' * (i % 3)}{i}" for i in range(n)]
    features = tfds.features.FeaturesDict(features)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    folder.mkdir()
    bounds = [i * n // shards for i in range(shards + 1)]
    for k in range(shards):
        writer = ArrayRecordWriter(str(folder / f"tiny-train.array_record-{k:05d}-of-{shards:05d}"), "group_size:1")
        for i in range(bounds[k], bounds[k + 1]):
            example = {name: column[i] for name, column in columns.items()}
            writer.write(serializer.serialize_example(features.encode_example(example)))
        writer.close()
    info = tfds.core.SplitInfo(name="train", shard_lengths=np.diff(bounds).tolist(), num_bytes=1)
    template = tfds.core.ShardedFileTemplate(
        dataset_name="tiny", data_dir=folder, split="train", filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=[info.replace(filename_template=template)],
        version="1.0.0", check_data=False,
    )  # fmt: skip
    unit, value_range = ("HU", (-1024.0, 3071.0)) if images.dtype == np.int16 else ("none", (0.0, 255.0))
    stored = StoredPixels(
        "CT" if unit == "HU" else "photo", unit, value_range, tuple(shape[:2]), shape[2], "pad_area", str(images.dtype)
    )
    segmentation = () if masks is None else ("organ",)
    DatasetCard("tiny", "1.0.0", task, tuple(labels), stored, {"train": n}, "0", segmentation=segmentation).write(
        folder
    )
    return open_split(folder, "train")
