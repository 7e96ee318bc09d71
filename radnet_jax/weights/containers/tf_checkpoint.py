"""TensorFlow's checkpoints without TensorFlow: an index, which is a LevelDB table of protocol buffers, and data files.

Formats: leveldb's doc/table_format.md and tensorflow/core/protobuf/tensor_bundle.proto. Every block of the index and
every array has a checksum, and all of them are checked.
"""

from __future__ import annotations

from collections.abc import Iterator
import mmap
from pathlib import Path
import re
import struct
from typing import Any

import ml_dtypes
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.weights.containers.crc32c import crc32c, masked

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # of a block: kind of compression, checksum
# tensorflow/core/framework/types.proto
_DTYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    19: np.float16,
}


def find_index(path: Path) -> Path | None:
    """Returns the .index of a checkpoint that `path` names by its prefix, one of its files or its folder; else None.

    Raises:
      UserError: a folder with several checkpoints, a file of one without its index.
    """
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.parent / f"{prefix}.index"
    if index.is_file():
        return index
    if prefix != path.name and path.is_file():
        raise UserError(f"no file {index}, which belongs to {path.name}", fix="copy all files of the checkpoint")
    found = sorted(path.glob("*.index")) if path.is_dir() else []
    if len(found) > 1:
        names = ", ".join(p.stem for p in found[:5])
        raise UserError(f"{path} holds several checkpoints", got=names, fix="name one of them")
    return found[0] if found else None


def read(index: Path) -> dict[str, np.ndarray]:
    """Returns the arrays by name, as views of the mapped data files.

    Raises:
      UserError: a data file is missing.
      ValueError: damage of any kind.
    """
    entries = dict(_table(index.read_bytes()))
    header = _message(entries.pop(b""))
    shards = int(header.get(1, [0])[0])
    if header.get(2, [0])[0]:
        raise UserError(f"{index} was saved on a big-endian machine", fix="save it again on a usual one")
    prefix = index.name.removesuffix(".index")
    mapped: dict[int, mmap.mmap] = {}
    arrays = {}
    for name, value in entries.items():
        entry = _message(value)
        if 7 in entry:
            raise UserError(f"{index} holds variables in slices ({name.decode()})", fix="save it again in one piece")
        kind = int(entry.get(1, [0])[0])
        if kind not in _DTYPES:  # strings and resources, such as the object graph of TensorFlow 2: no weights
            continue
        shard = int(entry.get(3, [0])[0])
        if shard not in mapped:
            path = index.with_name(f"{prefix}.data-{shard:05d}-of-{shards:05d}")
            if not path.is_file():
                raise UserError(f"no file {path}, which the checkpoint's index names", fix="copy all of its files")
            with path.open("rb") as file:
                mapped[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays[name.decode()] = _array(name.decode(), entry, np.dtype(_DTYPES[kind]), mapped[shard])
    return arrays


def _array(name: str, entry: dict[int, list[Any]], dtype: np.dtype, data: mmap.mmap) -> np.ndarray:
    dims = [_message(dim).get(1, [0])[0] for dim in _message(entry.get(2, [b""])[0]).get(2, [])]
    offset, size = int(entry.get(4, [0])[0]), int(entry.get(5, [0])[0])
    count = int(np.prod(dims, dtype=np.int64))
    if count * dtype.itemsize != size or offset + size > len(data) or min(dims, default=0) < 0:
        raise ValueError(f"{name} does not fit its data file")
    array = np.frombuffer(data, dtype, count, offset)
    if masked(crc32c(array.view(np.uint8))) != entry.get(6, [None])[0]:
        raise ValueError(f"{name} was changed: its checksum is wrong")
    return array.reshape(dims)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of a LevelDB table."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("no index of a TensorFlow checkpoint")
    _, position = _handle(data, len(data) - _FOOTER)  # of the meta index, which is not needed
    (offset, size), _ = _handle(data, position)
    for _, value in _block(data, offset, size):
        (offset, size), _ = _handle(value, 0)
        yield from _block(data, offset, size)


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields a block's entries, whose keys share their first bytes with the key before."""
    end = offset + size + _TRAILER
    if end > len(data):
        raise ValueError("a block ends beyond the index")
    compression, checksum = struct.unpack_from("<BI", data, offset + size)
    if compression:
        raise ValueError("a compressed block, which TensorFlow does not write")
    if masked(crc32c(np.frombuffer(data, np.uint8, size + 1, offset))) != checksum:
        raise ValueError("the index was changed: a checksum is wrong")
    block = data[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    stop = size - 4 * (restarts + 1)
    key, position = b"", 0
    while position < stop:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + own]
        yield key, block[position + own : position + own + length]
        position += own + length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")


def _message(data: bytes) -> dict[int, list[Any]]:
    """Returns a protocol buffer's fields by number: numbers, or the bytes of strings and messages."""
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        value: Any
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
            case 1:
                (value,), position = struct.unpack_from("<Q", data, position), position + 8
            case 2:
                length, position = _varint(data, position)
                value, position = data[position : position + length], position + length
            case 5:
                (value,), position = struct.unpack_from("<I", data, position), position + 4
            case wire:
                raise ValueError(f"a field of unknown kind {wire}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
