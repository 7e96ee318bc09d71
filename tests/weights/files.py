"""Writes files of weights of each kind without the programs that usually write them, and malicious ones."""

from collections import OrderedDict
from collections.abc import Mapping
import io
import pickle
import struct
from typing import ClassVar
import zipfile

import ml_dtypes
import numpy as np

from radnet_jax.weights.containers import safetensors, torch_file
from radnet_jax.weights.containers.crc32c import crc32c, masked

STORAGES = {np.dtype(dtype): name for name, dtype in torch_file._DTYPES.items()}
TF_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 9, np.dtype(ml_dtypes.bfloat16): 14, np.dtype(np.float16): 19}


class Global:
    """A name that the pickle asks for."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("only pickled")


class Call:
    """A call that the pickle asks for, and a state that it sets."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class _Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)
    extra = ()

    def save_name(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    def persistent_id(self, value):
        if isinstance(value, Storage):
            kind = Global("torch", f"{STORAGES[value.array.dtype]}Storage")
            return ("storage", kind, value.key, "cpu", value.array.size, *self.extra)
        return None

    def reducer_override(self, value):
        if isinstance(value, Call):
            return (
                (value.function, value.args, value.state) if value.state is not None else (value.function, value.args)
            )
        return NotImplemented

    dispatch[Global] = save_name


def pickled(value, extra=()):
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=2)
    pickler.extra = extra
    pickler.dump(value)
    return buffer.getvalue()


def _tensors(value, storages):
    """Replaces arrays by calls that build tensors, whose storages are collected."""
    if isinstance(value, np.ndarray):
        base = value.base if isinstance(value.base, np.ndarray) and value.base.flags.c_contiguous else None
        value = value if base is not None and base.dtype == value.dtype else np.array(value, order="C")
        base = value.base
        flat = (value if base is None else base).reshape(-1)
        offset = 0 if base is None else (value.__array_interface__["data"][0] - flat.ctypes.data) // value.itemsize
        storage = storages.setdefault(flat.ctypes.data, Storage(str(len(storages)), flat))
        strides = tuple(s // value.itemsize for s in value.strides)
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        return Call(rebuild, storage, offset, value.shape, strides, False, OrderedDict())
    if isinstance(value, Mapping):
        return type(value)((k, _tensors(v, storages)) for k, v in value.items())
    return value


def write_torch(path, tree):
    """The zip form; an array that is a view of another shares its storage."""
    storages = {}
    tree = _tensors(tree, storages)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tree))
        archive.writestr("archive/byteorder", b"little")
        for storage in storages.values():
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", b"3\n")


def write_torch_legacy(path, tree):
    storages = {}
    tree = _tensors(tree, storages)
    parts = [torch_file.LEGACY_MAGIC, pickled(1001), pickled({"little_endian": True}), pickled(tree, extra=(None,))]
    parts.append(pickled([s.key for s in storages.values()]))
    parts += [struct.pack("<q", s.array.size) + s.array.tobytes() for s in storages.values()]
    path.write_bytes(b"".join(parts))


def _varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _block(entries):
    out, before = b"", b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        while i % 16 and shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        before = key
    restarts = [0]  # readers that go through a block from its start need no other
    out += b"".join(struct.pack("<I", r) for r in restarts) + struct.pack("<I", len(restarts))
    return out


def write_tf(prefix, arrays):
    """Index and one data file, in two blocks."""
    data, entries = b"", [(b"", _field(1, 1))]
    for name in sorted(arrays):
        array = arrays[name]
        raw = array.tobytes()
        shape = b"".join(_field(2, _field(1, n)) for n in array.shape)
        checksum = masked(crc32c(np.frombuffer(raw, np.uint8)))
        entry = _field(1, TF_TYPES[array.dtype]) + _field(2, shape) + _field(4, len(data)) + _field(5, len(raw))
        entries.append((name.encode(), entry + _varint(6 << 3 | 5) + struct.pack("<I", checksum)))
        data += raw
    table, handles = b"", []
    half = len(entries) // 2 + 1
    for part in (entries[:half], entries[half:]):
        handles.append((part[-1][0] if part else b"\xff", len(table), _block(part)))
        table += _with_trailer(handles[-1][2])
    meta = (len(table), _block([]))
    table += _with_trailer(meta[1])
    index = (len(table), _block([(key, _varint(at) + _varint(len(block))) for key, at, block in handles]))
    table += _with_trailer(index[1])
    footer = b"".join(_varint(at) + _varint(len(block)) for at, block in (meta, index))
    table += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(table)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def _with_trailer(block):
    covered = block + b"\0"
    return covered + struct.pack("<I", masked(crc32c(np.frombuffer(covered, np.uint8))))


def haiku(tree):
    """A nested dict as Haiku's mappings."""
    flat = Global("haiku._src.data_structures", "FlatMapping")
    return Call(flat, {k: haiku(v) if isinstance(v, dict) else v for k, v in tree.items()})


def write_byol(path, online_params, online_state):
    state = Global("byol.byol_experiment", "_ByolExperimentState")
    other = {"net": {"w": np.ones((2, 2), np.float32)}}
    parts = [haiku(x) for x in (online_params, other, online_state, other)]
    tree = {"experiment_state": Call(state, *parts, {"momentum": 0.9}), "step": 7, "rng": np.zeros(2, np.uint32)}
    path.write_bytes(pickled(tree))


def write(kind, path, arrays):
    """A flat dict of arrays in the container called `kind`; returns what a user would name."""
    if kind == "torch":
        write_torch(path, OrderedDict(arrays))
    elif kind == "torch_legacy":
        write_torch_legacy(path, OrderedDict(arrays))
    elif kind == "safetensors":
        safetensors.write(path, arrays, {"format": "pt"})
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    elif kind == "tf":
        write_tf(path, arrays)
    else:
        path.write_bytes(pickled(arrays))
    return path
