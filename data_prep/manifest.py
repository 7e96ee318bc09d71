"""What stands beside the records: manifest.parquet, build.json, TFDS metadata, the private list of rejected files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import hashlib
from importlib import metadata
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep.plan import Rejected
from data_prep.shards import ShardResult, features
from data_prep.spec import DatasetSpec
from data_prep.summary import Summary
from radnet_jax.data.card import MANIFEST_FILE

REJECTED_FOLDER = "rejected"
BUILD_FILE = "build.json"
_BATCH = 8192


def write_manifest(out: Path, spec: DatasetSpec, parts: Mapping[str, Sequence[Path]]) -> tuple[dict[str, Summary], str]:
    """Writes manifest.parquet, a row for each record in record order, out of the lines that the shards left behind.

    Args:
      out: the dataset's folder.
      spec: the dataset.
      parts: for each split, in the order to write, the files with the lines of its shards.

    Returns:
      The summary of each split; and a digest of which records are of one patient, which depends neither on the salt nor
      on the patients' names.
    """
    summaries = {split: Summary(spec) for split in parts}
    grouping = hashlib.sha256()
    columns = _schema(spec)
    schema = columns.remove(columns.get_field_index("person"))
    with pq.ParquetWriter(out / MANIFEST_FILE, schema) as writer:
        for split, files in parts.items():
            grouping.update(f"{split}\0".encode())
            index = 0
            for table in _tables(files, columns.remove(columns.get_field_index("index"))):
                grouping.update(table["person"].to_numpy().astype("<i8").tobytes())
                summaries[split].add(table)
                places = pa.array(range(index, index + table.num_rows), pa.int64())
                writer.write_table(table.append_column("index", places).select(schema.names).cast(schema))
                index += table.num_rows
    return summaries, grouping.hexdigest()


def _schema(spec: DatasetSpec) -> pa.Schema:
    """Columns of manifest.parquet and `person` (see PlannedRow); facts by the spec's allow-list only."""
    fields = [
        ("split", pa.string()), ("index", pa.int64()), ("case_id", pa.string()), ("patient", pa.string()),
        ("person", pa.int64()), ("series", pa.string()), ("slice", pa.int32()), ("position", pa.float32()),
        ("source", pa.string()), ("phash", pa.uint64()), ("rows", pa.int32()), ("columns", pa.int32()),
        ("row_spacing", pa.float32()), ("column_spacing", pa.float32()), ("thickness", pa.float32()),
    ]  # fmt: skip
    if spec.task == "single_label":
        fields.append(("label", pa.int64()))
    elif spec.task == "multi_label":
        fields += [("labels", pa.list_(pa.int8())), ("label_mask", pa.list_(pa.int8()))]
    return pa.schema(fields + [(name, pa.string()) for name in spec.facts])


def _tables(files: Iterable[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The lines of all files, _BATCH at a time, whatever the number of shards."""
    lines = (json.loads(text) for file in files for text in file.open())
    while batch := list(itertools.islice(lines, _BATCH)):
        yield pa.Table.from_pylist(batch, schema)


def write_rejected(out: Path, rejected: Iterable[Rejected]) -> dict[str, int]:
    """Writes rejected/rejected.jsonl, readable by its owner only: paths and details can carry names of patients.

    Returns:
      {reason code: files}.
    """
    reasons: Counter[str] = Counter()
    folder = out / REJECTED_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # whatever the umask
    path = folder / "rejected.jsonl"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        before = None
        for item in rejected:  # by file
            line = {"index": item.file, "path": item.path, "reason": item.reason, "detail": item.detail}
            file.write(json.dumps(line) + "\n")
            reasons[item.reason] += (item.file, item.reason) != before  # several frames of a file count once
            before = (item.file, item.reason)
    return dict(sorted(reasons.items()))


def write_tfds_metadata(out: Path, spec: DatasetSpec, shards: Mapping[str, Sequence[ShardResult]]) -> None:
    """Writes dataset_info.json and features.json, so that `tfds.builder_from_directory` opens the folder."""
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[s.records for s in results], num_bytes=sum(s.size for s in results)
        )
        for split, results in shards.items()
    ]
    # check_data=True would need TensorFlow
    tfds.folder_dataset.write_metadata(
        data_dir=str(out), features=features(spec), split_infos=infos, version=spec.version, check_data=False
    )


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes JSON that appears whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    os.replace(unfinished, path)


def versions(project: str) -> dict[str, str]:
    """Versions of what decoded and wrote the records."""
    names = (
        "numpy", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "nibabel",
        "opencv-python-headless", "array_record", "tensorflow-datasets",
    )  # fmt: skip
    return {"radnet_jax": project} | {name: metadata.version(name) for name in names}
