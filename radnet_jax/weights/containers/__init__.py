"""Reads files of weights of any kind to NumPy arrays; needs no program that wrote them and runs nothing of them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib
from pathlib import Path
from typing import Any
import zipfile

import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.weights.containers import pickles, safetensors, tf_checkpoint, torch_file

_RE_SAVE = "read it with the program that wrote it, and save its arrays as .npz or .safetensors"
# What files begin with that are mistaken for weights, and what to do.
_FOREIGN = (
    (b"<", "a web page", "download it again: the address gave a page, not a file"),
    (b"version https://git-lfs", "a pointer to a file", "fetch the file itself: git lfs pull"),
    (b"\x89HDF", "an HDF5 (Keras) file", _RE_SAVE),
    (b"\x1f\x8b", "a compressed archive", "unpack it first"),
)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
      kind: "torch", "torch_legacy", "safetensors", "npz", "tf" or "pickle".
      tree: nested dicts, lists and tuples of arrays and plain values; the arrays may be read-only views of the file.
      sha256: of the file; of a TensorFlow checkpoint, of its index, which holds the checksums of all arrays.
      size: bytes.
    """

    kind: str
    tree: Any
    sha256: str
    size: int


def read(path: str | Path) -> Contents:
    """Reads a file of weights, whatever its kind; a TensorFlow checkpoint by its prefix, its .index or its folder.

    Raises:
      UserError: no such file, a kind that is not read, a damaged file, or a pickle that asks for more than arrays; the
        name of what it asks for is in the message.
    """
    path = Path(path).expanduser()
    try:
        return _read(path)
    except pickles.Refused as error:
        raise UserError(
            f"{path} is refused: its pickle asks for {error}, and only arrays and plain values are built from one",
            fix=f"if you trust the file, {_RE_SAVE}",
        ) from error
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is damaged, or is not what it seems ({detail})",
            fix="download or copy it again, and compare hashes",
        ) from error


def _read(path: Path) -> Contents:
    index = tf_checkpoint.find_index(path)
    if index is not None:
        return Contents("tf", tf_checkpoint.read(index), _sha256(index), index.stat().st_size)
    if path.is_dir():
        raise UserError(f"{path} is a folder without a TensorFlow checkpoint", expected="a file of weights")
    if not path.is_file():
        raise UserError(f"no file {path}", fix="check the path; the source's card says where the file is to be had")
    kind, reader = _kind_of(path)
    return Contents(kind, reader(path), _sha256(path), path.stat().st_size)


def _kind_of(path: Path) -> tuple[str, Callable[[Path], Any]]:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path} is empty", fix="download or copy it again")
    for magic, what, fix in _FOREIGN:
        if head.lstrip()[: len(magic)] == magic:
            raise UserError(f"{path} is {what}, not weights", fix=fix)
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive, as the first versions of PyTorch wrote it", fix=_RE_SAVE)
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
            return "torch", torch_file.read_zip
        if names and all(name.endswith(".npy") for name in names):
            return "npz", _read_npz
        raise UserError(f"{path} is a zip archive without weights", got=", ".join(names[:3]), fix="unpack it first")
    if head.startswith(torch_file.LEGACY_MAGIC):
        return "torch_legacy", torch_file.read_legacy
    if head.startswith(b"\x80"):
        return "pickle", pickles.read
    if head[8:9] == b"{":
        return "safetensors", safetensors.read
    raise UserError(
        f"{path} is no file of weights that is known",
        expected="PyTorch (.pth), safetensors, .npz, a TensorFlow checkpoint or a pickle of arrays",
        fix=_RE_SAVE,
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
