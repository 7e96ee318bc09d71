"""Shards: independent, atomic, restartable tasks, each writing one array_record file with TFDS records.

A shard is written in the working folder and renamed into place, and so are its lines of the manifest, which wait there
for the others; a small JSON beside the plan says that it is finished.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module
import numpy as np
import tensorflow_datasets as tfds

from data_prep.example_proto import serialized
from data_prep.guard import watch
from data_prep.hashing import Salt
from data_prep.lines import line
from data_prep.phash import content, phash
from data_prep.picture import picture
from data_prep.plan import Plan, PlannedRow, Rejected
from data_prep.raw import RawFile, look
from data_prep.scratch import flush
from data_prep.spec import DatasetSpec, Reject
from data_prep.tally import Tally
from radnet_jax.preprocessing import UNKNOWN_MASK

RECORDS_PER_SHARD = 256
MAX_SHARDS = 900  # a reader keeps a file open for each shard, and 1024 open files is a usual limit
# Options of array_record, one record a chunk for random access. Level 1 takes a third to a half of the time of its
# default, level 3, for 5 to 10 % more room, and is read faster.
COMPRESSIONS = {
    "zstd:1": "group_size:1,zstd:1",
    "zstd:3": "group_size:1,zstd:3",
    "none": "group_size:1,uncompressed",
}
DEFAULT_COMPRESSION = "zstd:1"
READ_AHEAD = 16  # images
PLAN_FILE = "plan.sqlite"


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write: rows [start, stop) of a split."""

    spec: DatasetSpec
    source: str
    out: str
    work: str
    salt: Salt
    split: str
    number: int
    of: int
    start: int
    stop: int
    examples: frozenset[int] = frozenset()  # places of rows of which a picture is kept
    rows: tuple[PlannedRow, ...] | None = None  # where the plan is out of reach
    compression: str = DEFAULT_COMPRESSION

    @property
    def file_name(self) -> str:
        return f"{self.spec.name}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}"

    @property
    def done_file(self) -> Path:
        return Path(self.work, f"{self.file_name}.json")

    @property
    def lines_file(self) -> Path:
        return Path(self.work, f"{self.file_name}.jsonl")


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What a finished shard holds.

    Attributes:
      records: number of records written.
      size: bytes of the file.
      sha256: of the file.
      digest: SHA-256 over pixels and labels in order; hashed ids are left out, so that it does not depend on the salt.
      rejected: rows whose pixels could not be used.
      skipped: their places in the split's plan.
      tally: of the pixels.
      pictures: of the rows that the task names as examples: (place, pixels of the masks in it, source of an <img>).
      salt: fingerprint of the salt used.
    """

    records: int
    size: int
    sha256: str
    digest: str
    rejected: tuple[Rejected, ...]
    skipped: tuple[int, ...]
    tally: Tally
    pictures: tuple[tuple[int, int, str], ...]
    salt: str

    @classmethod
    def read(cls, task: ShardTask) -> ShardResult | None:
        """The result of a shard that is already finished under this plan and salt, else None."""
        path = Path(task.out, task.file_name)
        if not all(p.is_file() for p in (task.done_file, task.lines_file, path)):
            return None
        try:
            data = json.loads(task.done_file.read_text())
            data["rejected"] = tuple(Rejected(*r) for r in data["rejected"])
            data["skipped"] = tuple(data["skipped"])
            data["tally"] = Tally.from_json(data["tally"])
            data["pictures"] = tuple((place, pixels, source) for place, pixels, source in data["pictures"])
            result = cls(**data)
        except (ValueError, KeyError, TypeError):  # half of it, or none, as after a power cut
            return None
        same = result.salt == task.salt.fingerprint() and result.size == path.stat().st_size
        return result if same else None

    def sums(self) -> dict[str, Any]:
        """Length and SHA-256 of the file."""
        return {"size": self.size, "sha256": self.sha256}

    def write(self, task: ShardTask) -> None:
        data = dataclasses.asdict(self) | {"tally": self.tally.to_json()}
        unfinished = task.done_file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(data))
        flush(unfinished)
        os.replace(unfinished, task.done_file)


def features(spec: DatasetSpec) -> tfds.features.FeaturesDict:
    """TFDS features of a record; pixels and label vectors as raw bytes, which array_record compresses by itself."""
    raw = tfds.features.Encoding.BYTES
    fields: dict[str, Any] = {
        "image": tfds.features.Tensor(shape=spec.image_shape, dtype=np.dtype(spec.stored.dtype), encoding=raw),
        "case_id": tfds.features.Text(),
        "patient": tfds.features.Text(),
    }
    if spec.segmentation:
        fields["segmentation"] = tfds.features.Tensor(shape=spec.stored.size, dtype=np.uint8, encoding=raw)
    if spec.task == "single_label":
        fields["label"] = tfds.features.ClassLabel(names=list(spec.labels))
    elif spec.task == "multi_label":
        for name in ("labels", "label_mask"):
            fields[name] = tfds.features.Tensor(shape=(len(spec.labels),), dtype=np.int8, encoding=raw)
    return tfds.features.FeaturesDict(fields)


def plan_shards(
    spec: DatasetSpec,
    source: Path,
    out: Path,
    work: Path,
    salt: Salt,
    sizes: dict[str, int],
    examples: tuple[str, Collection[int]] = ("", ()),
    compression: str = DEFAULT_COMPRESSION,
) -> list[ShardTask]:
    """Divides each split into shards of nearly equal length; their number depends on nothing but the split's size.

    Of the rows that `examples` names, by split and places, the shards keep pictures.
    """
    tasks = []
    for split, n in sizes.items():
        of = max(1, min(MAX_SHARDS, -(-n // RECORDS_PER_SHARD)))
        bounds = [i * n // of for i in range(of + 1)]
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            pictured = frozenset(p for p in examples[1] if split == examples[0] and start <= p < stop)
            shard = (split, number, of, start, stop, pictured)
            tasks.append(ShardTask(spec, str(source), str(out), str(work), salt, *shard, compression=compression))
    return tasks


def write_shard(task: ShardTask) -> ShardResult:
    """Writes one shard, or returns the result of an earlier run that finished it.

    Raises:
      OSError: the file can't be written (no space, no permission).
    """
    finished = ShardResult.read(task)
    if finished is not None:
        return finished
    temporary = Path(task.work, task.file_name + ".unfinished")
    final = Path(task.out, task.file_name)
    waiting = task.lines_file.with_suffix(".jsonl.unfinished")
    task.done_file.unlink(missing_ok=True)
    digest = hashlib.sha256()
    rejected: list[Rejected] = []
    skipped: list[int] = []
    tally = Tally.empty(task.spec.stored, len(task.spec.segmentation))
    pictures: list[tuple[int, int, str]] = []
    records = 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), COMPRESSIONS[task.compression])
        with _planned(task) as rows, waiting.open("w") as manifest:
            for row, image, mask, raw in _read(task, rows, rejected, skipped):
                described = _line(task, row, raw, image)
                writer.write(serialized(_example(task.spec, row, described, image, mask)))
                digest.update(np.ascontiguousarray(image).data)
                digest.update(b"" if mask is None else np.ascontiguousarray(mask).data)
                digest.update(repr((row.label, row.labels, row.label_mask)).encode())
                manifest.write(json.dumps(described) + "\n")
                records += 1
                tally.add(image, mask, content(row.size or raw.size, task.spec.stored), task.spec.stored)
                if row.order in task.examples:
                    masked = 0 if mask is None else int(((mask > 0) & (mask < UNKNOWN_MASK)).sum())
                    pictures.append((row.order, masked, picture(image, task.spec.stored, mask)))
        writer.close()
    except RuntimeError as error:  # array_record reports every failed write this way
        code = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(code, os.strerror(code)) from error
    with temporary.open("rb") as file:
        written = hashlib.file_digest(file, "sha256").hexdigest()
    result = ShardResult(
        records=records,
        size=temporary.stat().st_size,
        sha256=written,
        digest=digest.hexdigest(),
        rejected=tuple(rejected),
        skipped=tuple(skipped),
        tally=tally,
        pictures=tuple(pictures),
        salt=task.salt.fingerprint(),
    )
    flush(temporary)
    flush(waiting)
    os.replace(temporary, final)
    os.replace(waiting, task.lines_file)
    result.write(task)
    return result


@contextlib.contextmanager
def _planned(task: ShardTask) -> Iterator[Iterable[PlannedRow]]:
    """The rows that a task brings, else those of the plan."""
    if task.rows is not None:
        yield task.rows
        return
    with Plan(Path(task.work, PLAN_FILE)) as plan:
        yield plan.rows(task.split, task.start, task.stop)


class _Read(NamedTuple):
    """A row and what its file holds."""

    row: PlannedRow
    image: np.ndarray
    mask: np.ndarray | None
    raw: RawFile


def _read(task: ShardTask, rows: Iterable[PlannedRow], rejected: list[Rejected], skipped: list[int]) -> Iterator[_Read]:
    """Reads the rows' files, some ahead of what is made of them: each of the two works faster for not being interrupted
    by the other, which takes its place in the processor's caches.
    """
    rows = iter(rows)
    while batch := list(itertools.islice(rows, READ_AHEAD)):
        read = []
        for row in batch:
            try:
                with watch(row.order):
                    read.append(_Read(row, _pixels(task, row), _mask(task, row), _raw(task, row)))
            except Reject as reject:
                detail = f"frame {row.frame}: {reject.detail}" if row.frame else reject.detail
                rejected.append(Rejected(row.file, row.path, reject.reason, detail))
                skipped.append(row.order)
        yield from read


def read_example(task: ShardTask, row: PlannedRow) -> dict[str, Any]:
    """The record of a row, as TFDS features take it.

    Raises:
      Reject: the pixels or the mask can't be used.
    """
    image, mask, raw = _pixels(task, row), _mask(task, row), _raw(task, row)
    return _example(task.spec, row, _line(task, row, raw, image), image, mask)


def _raw(task: ShardTask, row: PlannedRow) -> RawFile:
    """What the file says of itself; of a built dataset's record its manifest has said it."""
    return RawFile("", None) if "source" in row.carried else look(Path(task.source, row.path))


def _line(task: ShardTask, row: PlannedRow, raw: RawFile, image: np.ndarray) -> dict[str, Any]:
    """The manifest's line of a record."""
    hashed = phash(image, task.spec.stored, row.size or raw.size)
    return line(task.spec, task.split, row, raw, hashed, task.salt.value)


def _pixels(task: ShardTask, row: PlannedRow) -> np.ndarray:
    image = task.spec.encode(Path(task.source), row.path, row.frame)
    if image.shape != task.spec.image_shape or image.dtype != np.dtype(task.spec.stored.dtype):
        raise TypeError(f"{task.spec.name} made pixels {image.shape} {image.dtype}, its spec says otherwise")
    return image


def _mask(task: ShardTask, row: PlannedRow) -> np.ndarray | None:
    if task.spec.encode_mask is None:
        return None
    if not row.mask:
        return np.full(task.spec.stored.size, UNKNOWN_MASK, np.uint8)
    return task.spec.encode_mask(Path(task.source), row.path, row.mask, row.frame)


def _example(
    spec: DatasetSpec, row: PlannedRow, line: Mapping[str, Any], image: np.ndarray, mask: np.ndarray | None
) -> dict[str, Any]:
    example: dict[str, Any] = {"image": image, "case_id": line["case_id"], "patient": line["patient"]}
    if mask is not None:
        example["segmentation"] = mask
    if spec.task == "single_label":
        example["label"] = row.label
    elif spec.task == "multi_label":
        example["labels"] = np.asarray(row.labels, np.int8)
        example["label_mask"] = np.asarray(row.label_mask, np.int8)
    return example
