"""PyTorch's files without PyTorch: the zip form (since 1.6) and the one before it."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import io
import math
import mmap
from pathlib import Path
import struct
from typing import Any
import zipfile
import zlib

import ml_dtypes
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.weights.containers import pickles

# The pickled number 0x1950a86a20f9469cfc6c, with which the older form begins.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LARGEST_PICKLE = 2**28
_DTYPES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}


@dataclasses.dataclass
class _Storage:
    """A flat array that tensors are views of; `data` is there once it was read."""

    dtype: np.dtype
    size: int
    data: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, checked against its size."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        data = self.storage.data
        assert data is not None
        if not math.prod(self.shape):
            return np.empty(self.shape, data.dtype)
        steps = tuple(s * data.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps, writeable=False)


def _rebuild(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor of something that is no storage")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor of impossible shape")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if count and (last >= storage.size or count > storage.size):
        raise ValueError("a tensor that reaches beyond its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _of_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def _names() -> dict[str, Any]:
    storages = {f"{name}Storage": dtype for name, dtype in _DTYPES.items()}
    return {
        **{f"torch.{name}": np.dtype(dtype) for name, dtype in storages.items()},
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch._utils._rebuild_tensor": _rebuild,
        "torch._utils._rebuild_parameter": _of_parameter,
        "torch._utils._rebuild_parameter_with_state": _of_parameter,
        "torch.Size": tuple,
        "torch.device": str,
    }


def _storage_of(pid: Any, known: dict[str, _Storage]) -> _Storage:
    """The storage of a persistent id: ("storage", type, key, place, size[, None])."""
    if len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
        raise pickles.Refused(f"a persistent {str(pid[0])[:40]!r}")
    if len(pid) == 6 and pid[5] is not None:
        raise ValueError("views of storages, as very old versions of PyTorch wrote them")
    key, size = str(pid[2]), pid[4]
    if not isinstance(size, int) or size < 0:
        raise ValueError("a storage of impossible size")
    storage = known.setdefault(key, _Storage(pid[1], size))
    if (storage.dtype, storage.size) != (pid[1], size):
        raise ValueError(f"storage {key} is declared twice, and differently")
    return storage


def _fill(storage: _Storage, data: memoryview | mmap.mmap, start: int, key: str) -> None:
    if start + storage.size * storage.dtype.itemsize > len(data):
        raise ValueError(f"storage {key} ends beyond the file")
    storage.data = np.frombuffer(data, storage.dtype, storage.size, start)


def _arrays(value: Any) -> Any:
    return pickles.plain(value, lambda v: v.array() if isinstance(v, _Tensor) else v)


def read_zip(path: Path) -> Any:
    """Reads what `torch.save` wrote, and checks the checksum of each part; arrays are views of the mapped file."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        name = next(n for n in members if n == "data.pkl" or n.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        if members[name].file_size > _LARGEST_PICKLE:
            raise ValueError("a pickle of impossible size")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise UserError(f"{path} was saved on a big-endian machine", fix="save it again on a usual one")
        known: dict[str, _Storage] = {}
        loaded = pickles.load(io.BytesIO(archive.read(name)), _names(), lambda pid: _storage_of(pid, known))
    for key, storage in known.items():
        info = members[f"{root}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"storage {key} is compressed, which PyTorch does not do")
        # The sizes of name and extra field in front of the data are those of the local header.
        local = struct.unpack_from("<HH", mapped, info.header_offset + 26)
        start = info.header_offset + 30 + sum(local)
        _fill(storage, mapped, start, key)
        if storage.size * storage.dtype.itemsize != info.file_size:
            raise ValueError(f"storage {key} is not as long as declared")
        if info.CRC and zlib.crc32(memoryview(mapped)[start : start + info.file_size]) != info.CRC:
            raise ValueError(f"storage {key} was changed: its checksum is wrong")
    return _arrays(loaded)


def read_legacy(path: Path) -> Any:
    """Reads what `torch.save` wrote before version 1.6: pickles, then the storages in the order of a list of keys."""
    known: dict[str, _Storage] = {}
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for _ in range(3):  # magic number, protocol, machine
            pickles.load(file)
        loaded = pickles.load(file, _names(), lambda pid: _storage_of(pid, known))
        keys = pickles.load(file)
        position = file.tell()
    if sorted(map(str, keys)) != sorted(known):
        raise ValueError("the storages are not those that the tensors need")
    for key in map(str, keys):
        storage = known[key]
        (size,) = struct.unpack_from("<q", mapped, position)
        if size != storage.size:
            raise ValueError(f"storage {key} is not as long as declared")
        _fill(storage, mapped, position + 8, key)
        position += 8 + size * storage.dtype.itemsize
    if position != len(mapped):
        raise ValueError("bytes are left over after the last storage")
    return _arrays(loaded)
