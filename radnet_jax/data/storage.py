"""Files of object stores (gs://, s3://, ... through fsspec): read, write, list; one line for what the user can mend.

Paths are written as URLs, scheme://bucket/folder/name. A message names the bucket only: the rest of a raw file's path
can name a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import re
from typing import Any

from radnet_jax.errors import UserError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL."""
    return bool(_URL.match(str(path)))


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def read_bytes(url: str) -> bytes | None:
    """The content of a file; None where there is none."""
    with _reaching(url) as (system, path):
        try:
            return system.cat_file(path)
        except FileNotFoundError:
            return None


def write_bytes(url: str, data: bytes) -> None:
    """Writes a file; another process sees it whole or not at all."""
    with _reaching(url) as (system, path), _whole(system, path) as unfinished:
        system.pipe_file(unfinished, data)


def put(local: Path, url: str) -> None:
    """Copies a file to a store, where it is seen whole or not at all."""
    with _reaching(url) as (system, path), _whole(system, path) as unfinished:
        system.put_file(str(local), unfinished)


def size(url: str) -> int | None:
    """Bytes of a file; None where there is none."""
    with _reaching(url) as (system, path):
        try:
            return int(system.size(path))
        except FileNotFoundError:
            return None


def fetch(url: str, names: Sequence[str], folder: Path) -> None:
    """Copies files below `url` to the same names below `folder`, many at once; a name that is not there is passed over.

    A copy that was broken off can leave a file that is not whole: check its size, or fetch into a folder of its own.
    """
    with _reaching(url) as (system, path):
        if not names:
            return
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        remote, local = [f"{path.rstrip('/')}/{name}" for name in names], [str(folder / name) for name in names]
        with contextlib.suppress(FileNotFoundError):
            system.get(remote, local)
            return
        for there, here in zip(remote, local):  # the copies of the others were broken off
            with contextlib.suppress(FileNotFoundError):
                system.get_file(there, here)


def listing(url: str) -> Iterator[tuple[str, int, str]]:
    """(path below `url`, bytes, stamp of the version) of every file, one folder's names in memory at a time.

    Raises:
      UserError: there is no such bucket or folder, or it can't be reached.
    """
    with _reaching(url) as (system, path):
        path = path.rstrip("/")
        if not system.exists(path or "/"):
            raise UserError(f"there is no folder {url}")
        for folder, _, files in system.walk(path, detail=True):
            below = str(folder).lstrip("/").removeprefix(path.lstrip("/")).strip("/")
            for name, facts in files.items():
                if name:
                    yield (f"{below}/{name}" if below else name), int(facts.get("size") or 0), _stamp(facts)


def _stamp(facts: Mapping[str, Any]) -> str:
    """What a store says of the version of a file: a tag of its content, else a time; "" where it says nothing."""
    names = ("etag", "ETag", "md5Hash", "content_md5", "updated", "LastModified", "last_modified", "mtime", "created")
    return next((str(facts[name]) for name in names if facts.get(name)), "")


def holds_anything(url: str) -> bool:
    """Whether there is a file at or below `url`."""
    with _reaching(url) as (system, path):
        try:
            return any(files for _, _, files in system.walk(path))
        except FileNotFoundError:
            return False


def remove(url: str) -> None:
    """Deletes a folder and what is in it; nothing where there is none."""
    with _reaching(url) as (system, path), contextlib.suppress(FileNotFoundError):
        system.rm(path, recursive=True)


@contextlib.contextmanager
def _whole(system: Any, path: str) -> Iterator[str]:
    """The name to write under. Stores show a file once it is whole; a file system needs a second name."""
    if "file" not in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        yield path
        return
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    unfinished = f"{path}.{os.getpid()}.unfinished"
    yield unfinished
    os.replace(unfinished, path)


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; errors of the store are told in one line."""
    import fsspec  # slow to import, and only this module needs it

    bucket = "/".join(url.split("/", 3)[:3])
    try:
        yield fsspec.core.url_to_fs(url)
    except (UserError, FileNotFoundError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(
            f"{bucket} needs a package that is not installed", fix="pip install 'radnet_jax[remote]'"
        ) from error
    except ValueError as error:
        raise UserError(f"{bucket} can't be read", got=type(error).__name__, expected="gs://, s3://, ...") from error
    except Exception as error:  # each store has errors of its own; what they say can quote a path
        raise UserError(
            f"{bucket} can't be reached",
            got=type(error).__name__,
            fix="check the name, the network and the credentials",
        ) from error
