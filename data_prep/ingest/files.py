"""The files of a source folder, in a stable order."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from radnet_jax.errors import UserError

_KEPT = 16 << 20  # bytes


class Version(NamedTuple):
    """A file as it was when it was opened; another content is another version."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> Version:
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


_buffer = bytearray()
_last: tuple[Version, memoryview] | None = None


def read_once(path: Path) -> memoryview:
    """The content of a file, which stays at hand for whoever wants it next; good until the next call.

    Files of up to _KEPT bytes come into one buffer: fresh memory takes longer to get than to fill.
    """
    global _last, _buffer
    version = Version.of(path)
    if _last is None or _last[0] != version:
        _last = None
        if len(_buffer) < version.size <= _KEPT:
            _buffer = bytearray(version.size)
        content = memoryview(_buffer if version.size <= len(_buffer) else bytearray(version.size))
        with path.open("rb", buffering=0) as file:
            read = 0
            while part := file.readinto(content[read : version.size]):
                read += part
        _last = version, content[:read].toreadonly()
    return _last[1]


def at_hand(version: Version) -> memoryview | None:
    """The content of a file if `read_once` read it last, else None."""
    return _last[1] if _last is not None and _last[0] == version else None


def walk(source: Path) -> Iterator[str]:
    """Yields the path of each file below `source`, relative to it, sorted within each folder.

    Hidden files and folders are passed over. Links to folders are followed, each real folder once, so that a loop ends.
    Holds one folder's names at a time, not the whole tree.

    Raises:
      UserError: a folder that can't be listed, since nobody could say how many images are lost with it.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(source, onerror=_unlisted, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), source)


def _unlisted(error: OSError) -> NoReturn:
    raise UserError(
        f"a folder of the source can't be listed ({error.strerror})",
        fix="`find SOURCE -type d ! -readable` names such folders: make them readable or take them out",
    ) from error
