"""A restricted unpickler: builds arrays and plain values, calls nothing that a pickle names but what stands here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
import io
import math
from pathlib import Path
import pickle
from typing import Any, ClassVar

import numpy as np

# Classes of which a pickle may hold instances: their values are kept, none of their code is ever loaded.
_RECORDS = ("argparse.Namespace",)
_RECORD_PACKAGES = ("byol.", "haiku.", "optax.")
_ARRAY_KINDS = "biufc"
# Opcodes that only reach beyond plain values: code registries, out-of-band buffers, instances by class name.
_FORBIDDEN = (
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.INST,
    pickle.OBJ,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.BYTEARRAY8,
)


class Refused(Exception):  # noqa: N818 (a verdict)
    """A pickle asks for a name that is not on the list."""


class Record:
    """Stands for an instance of a class that is not loaded: its arguments and its state."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Array:
    """Stands for a NumPy array until its state is known."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        kind = dtype.numpy()
        if not isinstance(data, bytes):
            raise Refused("numpy arrays of objects")
        if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize != len(data):
            raise ValueError("an array whose bytes do not fit its shape")
        self.value = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


class DType:
    """Stands for a NumPy data type, whose byte order is in its state."""

    def __init__(self, name: str, *_: Any):
        self.name, self.swapped = name, False

    def __setstate__(self, state: Any) -> None:
        self.swapped = state[1] == ">"

    def numpy(self) -> np.dtype:
        dtype = np.dtype(str(self.name))
        if dtype.kind not in _ARRAY_KINDS:
            raise Refused(f"numpy arrays of type {self.name}")
        return dtype.newbyteorder(">") if self.swapped else dtype


def _reconstruct(*_: Any) -> Array:
    return Array()


def _scalar(dtype: DType, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy(), 1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode with {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Old protocols write bytes() for the empty bytes."""
    return b""


def _marker(name: str) -> Callable[..., Any]:
    """A class that is only ever an argument: calling it is refused."""

    def refuse(*_: Any) -> Any:
        raise Refused(name)

    return refuse


# fmt: off
GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "builtins.set": set,
    "__builtin__.set": set,
    "__builtin__.bytes": _no_bytes,
    "numpy.ndarray": _marker("numpy.ndarray"),
    "numpy.dtype": DType,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}
# fmt: on


class _Unpickler(pickle._Unpickler):  # in Python, not in C: a table of its opcodes can be cut, and it sizes no memo
    dispatch: ClassVar[dict[int, Any]] = {
        k: v for k, v in pickle._Unpickler.dispatch.items() if bytes([k]) not in _FORBIDDEN
    }

    def __init__(self, file: io.BufferedIOBase, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        super().__init__(file, encoding="latin1")
        self._names, self._persistent = names, persistent

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._names:
            return self._names[full]
        if full in _RECORDS or (full.startswith(_RECORD_PACKAGES) and full.replace(".", "").isidentifier()):
            return Record
        raise Refused(full)

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("objects outside of the pickle")
        return self._persistent(pid)

    def load_build(self) -> None:
        # Setting attributes is left to the classes above; an OrderedDict's are PyTorch's versions of modules.
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state, target = stack.pop(), stack[-1]
        if isinstance(target, Record | Array | DType):
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict):
            raise Refused(f"to set attributes of a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def load(
    file: io.BufferedIOBase,
    names: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle from a file: dicts, lists, strings, numbers and the stand-ins of this module.

    Args:
      file: positioned where the pickle begins.
      names: what the pickle may ask for beside GLOBALS, by full name.
      persistent: gives the object of a persistent id.

    Raises:
      Refused: it asks for something else.
      Exception: of any kind, where it is damaged.
    """
    return _Unpickler(file, {**GLOBALS, **(names or {})}, persistent).load()


def plain(value: Any, resolve: Callable[[Any], Any] = lambda value: value) -> Any:
    """Returns a loaded value with the stand-ins replaced: arrays, dicts (of objects with fields), tuples.

    What stands in several places is replaced once, so that lists of lists of the same lists do not grow without end.

    Args:
      value: what `load` returned.
      resolve: replaces further stand-ins, and returns all else as it is.
    """
    done: dict[int, Any] = {}

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: known(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(known(v) for v in value)
        if isinstance(value, Array):
            return value.value
        if isinstance(value, Record):
            if isinstance(value.state, Mapping):
                return known(value.state)
            return known(value.args[0] if len(value.args) == 1 else value.args)
        return resolve(value)

    def known(value: Any) -> Any:
        if id(value) not in done:
            done[id(value)] = replaced(value)
        return done[id(value)]

    return known(value)


def read(path: Path) -> Any:
    """Reads a file that is one pickle, such as a Haiku checkpoint."""
    with path.open("rb") as file:
        return plain(load(file))
