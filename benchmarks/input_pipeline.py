"""How many images a second a core reads, shuffles and batches, against reading and decoding alone.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --dataset=DATASET

Draws CT slices (or takes images of a built dataset), writes them as int16 Hounsfield units, as uint8, as PNG and as
JPEG, with each compression of array_record, and prints one JSON object a line for each. All figures are images for each
second of processor time of the whole process, with one reading thread, from files in the page cache; rounds alternate
between the sides, so that other load on the machine meets them alike.

- pipeline: `train_batches`, from records to shuffled batches.
- bare: the faster of two loops that read the same number of records in random order, decode them and hold a batch of
  them as a list: a call for each record, and a call for each shard's part of a batch.
- throwaway: the loop of single reads that drops each image at once, which no batch can be made of: its memory never
  leaves the cache.
- grain_tfds: grain over a TFDS data source, one thread, as records are usually read in JAX.
- torch: a DataLoader over PNG files of the same images, no workers; where torch is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any

from absl import app, flags, logging
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_prep.phantom import REGIONS, draw_slice
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.data.pipeline import train_batches
from radnet_jax.preprocessing import StoredPixels

_DATASET = flags.DEFINE_string("dataset", "", "Folder of a built dataset with a train split, in place of drawn slices.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels a side of drawn slices.")
_IMAGES = flags.DEFINE_integer("images", 1024, "Images of each dataset.")
_BATCH = flags.DEFINE_integer("batch", 256, "Examples in a batch.")
_STEPS = flags.DEFINE_integer("steps", 4, "Batches that are timed at a time.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Times that each side has its turn.")
_ONLY = flags.DEFINE_string("only", "", "Part of the name of the datasets to try; all by default.")

SHARDS = 4
LABELS = tuple(REGIONS)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A way to store images: their type, how they are encoded, and the options of array_record's writer."""

    dtype: str
    codec: str
    compression: str  # zstd:3 is array_record's own choice


WAYS = [Stored("int16", "raw", c) for c in ("zstd:3", "zstd:1", "uncompressed")]
WAYS += [Stored("uint8", "raw", c) for c in ("zstd:3", "zstd:1", "uncompressed")]
WAYS += [Stored("uint8", "png", "uncompressed"), Stored("uint8", "jpeg", "uncompressed")]


def images() -> dict[str, np.ndarray]:
    """Returns images `[n h w c]` by type: those of a dataset, or drawn slices as int16 HU and, windowed, as uint8."""
    if _DATASET.value:
        split = open_split(_DATASET.value, "train")
        batch = split.allocate(min(_IMAGES.value, len(split)))
        split.read_into(batch, 0, range(len(batch["image"])))
        return {split.card.stored.dtype: batch["image"]}
    hu = draw(_IMAGES.value, _SIZE.value)
    return {"int16": hu, "uint8": np.rint((hu.clip(-1000, 1000) + 1000.0) / 2000 * 255).astype(np.uint8)}


def draw(count: int, size: int) -> np.ndarray:
    """Returns CT slices `[n h w 1]` int16 of all body regions."""
    names = itertools.cycle(REGIONS)
    patients = [(region, (0, k)) for k, region in zip(range(-(-count // 4)), names)]
    slices = [draw_slice(region, (i + 0.5) / 4, size, patient, i)[0] for region, patient in patients for i in range(4)]
    return np.stack(slices[:count])[..., None]


def write(folder: Path, images: np.ndarray, way: Stored) -> Split:
    """Writes a dataset as `data_prep` does."""
    name, n, shape = "images", len(images), images.shape[1:]
    if way.codec == "raw":
        kind = tfds.features.Tensor(shape=shape, dtype=images.dtype, encoding=tfds.features.Encoding.BYTES)
        encoded = list(images)
    else:
        kind = tfds.features.Image(shape=shape, dtype=images.dtype, encoding_format=way.codec)
        encoded = [cv2.imencode(f".{way.codec}", image[..., ::-1])[1].tobytes() for image in images]
    features = tfds.features.FeaturesDict(
        {
            "image": kind,
            "label": tfds.features.ClassLabel(names=list(LABELS)),
            "case_id": tfds.features.Text(),
            "patient": tfds.features.Text(),
        }
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    folder.mkdir(parents=True)
    bounds = [i * n // SHARDS for i in range(SHARDS + 1)]
    for k in range(SHARDS):
        path = folder / f"{name}-train.array_record-{k:05d}-of-{SHARDS:05d}"
        writer = ArrayRecordWriter(str(path), f"group_size:1,{way.compression}")
        for i in range(bounds[k], bounds[k + 1]):
            example = {"image": encoded[i], "label": i // 4 % len(LABELS), "case_id": f"{i:016x}", "patient": "0" * 16}
            writer.write(serializer.get_tf_example(features.encode_example(example)).SerializeToString())
        writer.close()
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name, data_dir=folder, split="train", filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=np.diff(bounds).tolist(), num_bytes=0, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=[info], version="1.0.0", check_data=False
    )
    modality, unit, limits = ("CT", "HU", (-1024.0, 3071.0)) if way.dtype == "int16" else ("XR", "none", (0.0, 255.0))
    stored = StoredPixels(modality, unit, limits, shape[:2], shape[2], "pad_area", way.dtype)
    DatasetCard(name, "1.0.0", "single_label", LABELS, stored, {"train": n}, "0", generated=True).write(folder)
    return open_split(folder, "train")


def decoder(way: Stored, values: int, record: bytes) -> Callable[[bytes], np.ndarray]:
    """Returns what takes the image out of a record, without a parse: at a fixed place, or by the file's first bytes."""
    if way.codec == "raw":
        dtype = np.dtype(way.dtype)
        length = _varint(values * dtype.itemsize)
        start = record.index(b"\x0a" + length) + 1 + len(length)
        return lambda data: np.frombuffer(data, dtype, values, start)
    magic = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff"}[way.codec]
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8, offset=data.index(magic)), cv2.IMREAD_UNCHANGED)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


class Bare:
    """Reading and decoding alone."""

    def __init__(self, split: Split, way: Stored):
        files = sorted(split.folder.glob("*.array_record-*"))
        options = "readahead_buffer_size:0,max_parallelism:0"
        self.readers = [ArrayRecordReader(str(f), options=options, file_reader_buffer_size=32768) for f in files]
        values = split.allocate(1)["image"].size
        self.decode = decoder(way, values, self.readers[0].read([0])[0])
        self.rng = np.random.default_rng(0)
        self.per_shard = len(split) // SHARDS

    def _rows(self) -> np.ndarray:
        return self.rng.integers(0, self.per_shard, (SHARDS, _BATCH.value // SHARDS))

    def single(self) -> list[np.ndarray]:
        shards = enumerate(self._rows().T.tolist())
        return [self.decode(self.readers[k].read([row])[0]) for _, rows in shards for k, row in enumerate(rows)]

    def batched(self) -> list[np.ndarray]:
        rows = zip(self.readers, self._rows().tolist())
        return [self.decode(record) for reader, part in rows for record in reader.read(part)]

    def throwaway(self) -> None:
        for rows in self._rows().T.tolist():
            for k, row in enumerate(rows):
                self.decode(self.readers[k].read([row])[0])


def grain_tfds(split: Split) -> Iterator[Any]:
    """What most JAX code does: one TFDS parse and one Python call for each example."""
    import grain

    source = tfds.builder_from_directory(str(split.folder)).as_data_source("train")
    data = grain.MapDataset.source(source).seed(0).shuffle().repeat()
    data = data.map(lambda record: {"image": record["image"], "label": np.int32(record["label"])}).batch(_BATCH.value)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def torch_loader(split: Split) -> Iterator[Any]:
    """PNG files, decoded by OpenCV, collated by default."""
    import torch

    class Files(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.paths = sorted((split.folder / "files").iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            data = np.frombuffer(self.paths[index].read_bytes(), np.uint8)
            return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)), index

    torch.set_num_threads(1)
    folder = split.folder / "files"
    folder.mkdir()
    batch = split.allocate(len(split))
    split.read_into(batch, 0, range(len(split)))
    for i, image in enumerate(batch["image"]):
        (folder / f"{i:05d}.png").write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    loader = torch.utils.data.DataLoader(Files(), _BATCH.value, shuffle=True, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def seconds(call: Callable[[], Any]) -> float:
    """Returns the processor time of one image over some batches."""
    start = time.process_time()
    for _ in range(_STEPS.value):
        call()
    return (time.process_time() - start) / (_STEPS.value * _BATCH.value)


def steady(batches: Iterator[Any]) -> float:
    """Returns the processor time of one image, once what is read ahead is full."""
    for _ in range(4):
        next(batches)
    value = seconds(lambda: next(batches))
    if hasattr(batches, "close"):
        batches.close()
    return value


def measure(split: Split, way: Stored) -> dict[str, list[float]]:
    """Returns the processor time of one image in each round, by side."""
    bare = Bare(split, way)
    sides: dict[str, Callable[[], float]] = {
        "single": functools.partial(seconds, bare.single),
        "batched": functools.partial(seconds, bare.batched),
        "throwaway": functools.partial(seconds, bare.throwaway),
    }
    starts = itertools.count(0, 100)
    sides["pipeline"] = lambda: steady(
        train_batches(split, seed=0, batch_size=_BATCH.value, threads=1, start=next(starts))
    )
    sides["grain_tfds"] = lambda: steady(grain_tfds(split))
    if way.codec == "png" and importlib.util.find_spec("torch"):
        loader = torch_loader(split)
        sides["torch"] = lambda: seconds(lambda: next(loader))
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, side in sides.items():
            times[name].append(side())
    return times


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # TFDS tells each time that it opens a dataset
    with tempfile.TemporaryDirectory() as folder:
        by_type = images()
        for way in WAYS:
            name = f"{way.dtype} {way.codec} {way.compression}"
            if _ONLY.value not in name or way.dtype not in by_type:
                continue
            split = write(Path(folder, name.replace(" ", "-")), by_type[way.dtype], way)
            kilobytes = sum(f.stat().st_size for f in split.folder.glob("*.array_record-*")) / len(split) / 1e3
            times = {side: np.array(values) for side, values in measure(split, way).items()}
            times["bare"] = np.minimum(times.pop("single"), times.pop("batched"))
            rates = {f"{side}_per_s_core": round(1 / float(np.median(values))) for side, values in times.items()}
            ratios = {
                f"of_{side}": round(float(np.median(values / times["pipeline"])), 2)
                for side, values in times.items()
                if side != "pipeline"
            }
            record = {
                "stored": name,
                "shape": list(by_type[way.dtype].shape[1:]),
                "batch": _BATCH.value,
                "kb_per_image": round(kilobytes, 1),
                **rates,
                **ratios,
                "cores": os.cpu_count(),
                **{p: importlib.metadata.version(p) for p in ("array-record", "numpy", "grain")},
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
