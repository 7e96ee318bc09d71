"""The array_record files of one split of a dataset: random access to serialised records, by number."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
import errno
import itertools
import json
from pathlib import Path
import resource
import threading
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from radnet_jax.errors import UserError

INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"
# What array_record's own source uses for random access. Each read is of one record: measured, a call for 64 records
# costs 1.2 to 2 times the processor time of 64 calls, since their bytes have left the cache when they are copied.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER = 32768
_MEND = "copy the dataset again, or delete its folder and build it anew"


class Shards:
    """The records of one split, from the files that `dataset_info.json` names. Threads may share it.

    Files are opened when they are first read from, and stay open.

    Raises:
      UserError: the metadata can't be read or speaks of another number of records than expected; a file is missing.
    """

    def __init__(self, folder: Path, split: str, records: int):
        self._folder, self._split = folder, split
        self._files, lengths = _listed(folder, split)
        self._ends = list(itertools.accumulate(lengths))
        self._readers: list[Any] = [None] * len(self._files)
        self._lock = threading.Lock()
        if sum(lengths) != records:
            raise UserError(
                f"{folder / INFO_FILE} does not fit the dataset's card",
                got=f"{sum(lengths)} records in split {split!r}",
                expected=records,
                fix=_MEND,
            )
        missing = [file for file, length in zip(self._files, lengths) if length and not (folder / file).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(self._files)} shards of split {split!r} are missing in {folder}",
                got=f"no {missing[0]}",
                fix=_MEND,
            )
        _allow_open_files(len(self._files))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, number: int) -> str:
        """Returns the name of the file that holds record `number`."""
        return self._files[bisect.bisect_right(self._ends, number)]

    def read(self, number: int) -> bytes:
        """Returns a serialised record; a UserError names the shard where it is damaged."""
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect.bisect_right(self._ends, number)
        first = self._ends[shard - 1] if shard else 0
        reader = self._readers[shard] or self._open(shard, self._ends[shard] - first)
        try:
            return reader.read([number - first])[0]
        except RuntimeError as error:  # array_record reports every failed read this way
            raise self.damaged(number) from error

    def damaged(self, number: int) -> UserError:
        """Returns the error to raise for a record that can't be used."""
        return UserError(
            f"shard {self.name(number)} of {self._folder} is damaged",
            got=f"record {number} of split {self._split!r} can't be read",
            fix=_MEND,
        )

    def _open(self, shard: int, records: int) -> Any:
        with self._lock:
            if self._readers[shard] is None:
                self._readers[shard] = self._opened(self._folder / self._files[shard], records)
            return self._readers[shard]

    def _opened(self, path: Path, records: int) -> Any:
        try:
            with path.open("rb"):  # array_record does not say why it can't open a file
                pass
            reader = ArrayRecordReader(str(path), options=_OPTIONS, file_reader_buffer_size=_BUFFER)
            got = f"{reader.num_records()} records"
        except OSError as error:
            fix = "raise the limit of open files: ulimit -n 8192" if error.errno == errno.EMFILE else _MEND
            raise UserError(f"shard {path} can't be opened ({error.strerror})", fix=fix) from error
        except (RuntimeError, TypeError):  # TypeError: what its constructor raises for a file without a proper end
            got = "no array_record file"
        if got != f"{records} records":
            raise UserError(f"shard {path} is damaged", got=got, expected=f"{records} records", fix=_MEND)
        return reader


def image_codec(folder: Path) -> str:
    """Returns how a dataset's images are encoded, from its `features.json`: "raw", "png" or "jpeg"."""
    try:
        feature = json.loads((folder / FEATURES_FILE).read_text())["featuresDict"]["features"]["image"]
        if "tensor" in feature and feature["tensor"]["encoding"] == "bytes":
            return "raw"
        if "image" in feature and feature["image"]["encodingFormat"] in ("png", "jpeg"):
            return feature["image"]["encodingFormat"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / FEATURES_FILE} can't be read ({type(error).__name__})", fix=_MEND) from error
    raise UserError(
        f"images of {folder} are encoded in a way that is not read",
        expected="a Tensor with Encoding.BYTES, or an Image in PNG or JPEG",
        fix="build the dataset with data_prep.build",
    )


def _listed(folder: Path, split: str) -> tuple[Sequence[str], Sequence[int]]:
    """Returns the names of a split's files and how many records each has."""
    try:
        info = json.loads((folder / INFO_FILE).read_text())
        entry = next(entry for entry in info["splits"] if entry["name"] == split)
        lengths = [int(length) for length in entry["shardLengths"]]
        template = entry["filepathTemplate"]
        names = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": info["fileFormat"]}
        files = [
            template.format(**names, SHARD_X_OF_Y=f"{number:05d}-of-{len(lengths):05d}")
            for number in range(len(lengths))
        ]
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise UserError(
            f"{folder / INFO_FILE} can't be read for split {split!r} ({type(error).__name__})", fix=_MEND
        ) from error
    return files, lengths


def _allow_open_files(more: int) -> None:
    """Raises the soft limit of open files: each shard stays open, and a usual limit is 1024 for the whole process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + more, hard), hard))
