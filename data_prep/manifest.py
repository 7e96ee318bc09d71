"""What stands beside the records: manifest.parquet, build.json, TFDS metadata, the private list of rejected files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import hashlib
from importlib import metadata
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep.hashing import pseudonym
from data_prep.plan import Plan, PlannedRow, Rejected
from data_prep.shards import ShardResult, features
from data_prep.spec import DatasetSpec
from radnet_jax.data.card import MANIFEST_FILE

REJECTED_FOLDER = "rejected"
BUILD_FILE = "build.json"
_BATCH = 8192


def write_manifest(
    out: Path, spec: DatasetSpec, plan: Plan, splits: Iterable[str], skipped: Mapping[str, set[int]], salt: bytes
) -> tuple[dict[str, dict[str, int]], str]:
    """Writes manifest.parquet: one row for each record, in record order; facts by the spec's allow-list only.

    Args:
      out: the dataset's folder.
      spec: the dataset.
      plan: the plan.
      splits: in the order to write.
      skipped: for each split the planned places whose pixels were rejected.
      salt: for the hashes; the same as in the records.

    Returns:
      {split: {label name: records}}, "unlabelled" for -1, findings count their positives; and a digest of which records
      are of one patient, which depends neither on the salt nor on the patients' names.
    """
    counts: dict[str, dict[str, int]] = {}
    grouping = hashlib.sha256()
    schema = _schema(spec)
    with pq.ParquetWriter(out / MANIFEST_FILE, schema) as writer:
        for split in splits:
            labels: Counter[str] = Counter()
            batch: list[dict[str, Any]] = []
            grouping.update(f"{split}\0".encode())
            written = (row for row in plan.rows(split) if row.order not in skipped[split])
            for index, row in enumerate(written):
                batch.append(_line(spec, split, index, row, salt))
                grouping.update(row.person.to_bytes(8, "little"))
                labels.update(_label_names(spec, row))
                if len(batch) == _BATCH:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema))
            counts[split] = dict(sorted(labels.items()))
    return counts, grouping.hexdigest()


def _schema(spec: DatasetSpec) -> pa.Schema:
    fields = [("split", pa.string()), ("index", pa.int64()), ("case_id", pa.string()), ("patient", pa.string())]
    fields += [("series", pa.string()), ("slice", pa.int32()), ("position", pa.float32())]
    if spec.task == "single_label":
        fields.append(("label", pa.int64()))
    elif spec.task == "multi_label":
        fields += [("labels", pa.list_(pa.int8())), ("label_mask", pa.list_(pa.int8()))]
    return pa.schema(fields + [(name, pa.string()) for name in spec.facts])


def _line(spec: DatasetSpec, split: str, index: int, row: PlannedRow, salt: bytes) -> dict[str, Any]:
    line: dict[str, Any] = {
        "split": split,
        "index": index,
        "case_id": pseudonym(salt, "case", row.identity),
        "patient": pseudonym(salt, "patient", row.patient),
        "series": pseudonym(salt, "series", row.series) if row.series else "",
        "slice": row.slice,
        "position": row.position,
        "label": row.label,
        "labels": row.labels,
        "label_mask": row.label_mask,
    }
    line |= {name: row.facts.get(name) for name in spec.facts}
    return {name: line[name] for name in _schema(spec).names}


def _label_names(spec: DatasetSpec, row: PlannedRow) -> Iterator[str]:
    if spec.task == "multi_label":
        yield from (name for name, value, known in zip(spec.labels, row.labels, row.label_mask) if value and known)
    elif spec.task == "single_label":
        yield spec.labels[row.label] if row.label >= 0 else "unlabelled"


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
