"""The safetensors format: 8 bytes with the length of a JSON header, the header, the arrays' bytes."""

from __future__ import annotations

from collections.abc import Mapping
import json
import math
import mmap
import os
from pathlib import Path
import struct

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000  # the format's own limit


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays by name, as views of the mapped file.

    Raises:
      ValueError: a header that is not sound, or does not fit the file.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", mapped)
    if length > min(_LARGEST_HEADER, len(mapped) - 8):
        raise ValueError("the header is longer than the file")
    header = json.loads(mapped[8 : 8 + length])
    header.pop(_METADATA, None)
    arrays, covered = {}, 0
    for name, entry in header.items():
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
            raise ValueError(f"{name} has an impossible shape or place")
        if end - start != math.prod(shape) * dtype.itemsize or 8 + length + end > len(mapped):
            raise ValueError(f"{name} does not fit the file")
        covered += end - start
        arrays[name] = np.frombuffer(mapped, dtype, math.prod(shape), 8 + length + start).reshape(shape)
    if 8 + length + covered != len(mapped):
        raise ValueError("the arrays do not fill the file")
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays (of any strides) in the order of their names; the file appears whole or not at all."""
    header: dict[str, object] = {_METADATA: dict(metadata)}
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the arrays begin at a multiple of 8
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            for name in sorted(arrays):
                # An array at a time: a view of other strides is copied alone.
                file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
