"""Where source or out of a build is a URL: a folder of names stands for the one, another is on its way to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from data_prep.hashing import digest
from data_prep.source import SMALL
from data_prep.spec import GENERATED_MARKER
from data_prep.units import Places
from radnet_jax.data import storage
from radnet_jax.data.cache import SUMS_FILE, cache_folder
from radnet_jax.data.card import CARD_FILE
from radnet_jax.errors import UserError

# Files of a remote source that are read whole while planning: lists and tables. Of the others the name and size are
# enough until their turn comes.
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".xml", ".csv.gz", ".json.gz", GENERATED_MARKER)
REQUEST = ".build/request"


def find_places(
    source: str | os.PathLike[str], out: str | os.PathLike[str], salt_file: str | os.PathLike[str] | None, is_file: bool
) -> Places:
    """Where the files of a build are, as every machine understands it; `is_file` for a source that is a table."""
    where = [str(p) if storage.is_remote(p) else str(Path(p).absolute()) for p in (source, out, salt_file or "")]
    if storage.is_remote(where[0]) and is_file:
        where[0] = where[0].rpartition("/")[0]
    if where[1] == where[0] or where[1].startswith(f"{where[0].rstrip('/')}/"):
        raise UserError("out lies inside source", got=out, fix="give --out a folder of its own")
    return Places(where[0], where[1], where[2] if salt_file else "")


@contextlib.contextmanager
def near(places: Places, source: str) -> Iterator[tuple[Path, Path, bool]]:
    """Yields local folders for source and out, the places themselves or what stands for them, and whether the source is
    there with the content of all its files; a finished dataset is delivered at the end.
    """
    with contextlib.ExitStack() as stack:
        near_source, is_whole = Path(source).absolute(), True
        if storage.is_remote(places.source):
            mirrored, is_whole = stack.enter_context(mirror(places.source))
            near_source = mirrored / source.removeprefix(places.source).strip("/")
        if not storage.is_remote(places.out):
            yield near_source, Path(places.out), is_whole
            return
        near_out, is_finished = stage(places.out)
        if is_finished:
            stack.callback(shutil.rmtree, near_out)
        yield near_source, near_out, is_whole
        if not is_finished:
            deliver(near_out, places.out)
        storage.remove(storage.join(places.out, ".build"))


@contextlib.contextmanager
def mirror(url: str) -> Iterator[tuple[Path, bool]]:
    """A folder with the names and sizes of the files below `url`, and the content of tables; of all of them where that
    is little, which the second value tells.

    A name takes no room but an entry; the content is zeros until a worker fetches it.

    Raises:
      UserError: no such folder, a store that can't be reached.
    """
    with tempfile.TemporaryDirectory(prefix="radnet_jax_source_") as folder:
        tables, others, total = {}, {}, 0
        for name, size, stamp in storage.listing(url):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)
            # Another version of a file has another time, which is all that is known of it.
            seconds = int.from_bytes(hashlib.sha256(stamp.encode()).digest()[:4])
            os.utime(path, (seconds, seconds))
            total += size
            if name.lower().endswith(TABLE_SUFFIXES):
                tables[name] = seconds
            elif total < SMALL:
                others[name] = seconds
        wanted = tables | (others if total < SMALL else {})
        storage.fetch(url, list(wanted), Path(folder))
        for name, seconds in wanted.items():
            os.utime(Path(folder, name), (seconds, seconds))
        yield Path(folder), total < SMALL


def stage(url: str) -> tuple[Path, bool]:
    """The local folder in which the dataset at `url` is made, which an unfinished build finds again on this machine;
    and whether the dataset is finished, so that the folder holds what tells how it was built.

    Raises:
      UserError: `url` holds something else.
    """
    folder = cache_folder("builds") / hashlib.sha256(url.encode()).hexdigest()[:16]
    if (card := storage.read_bytes(storage.join(url, CARD_FILE))) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        storage.fetch(url, ["build.json", SUMS_FILE], folder)
        (folder / CARD_FILE).write_bytes(card)
        return folder, True
    if storage.read_bytes(storage.join(url, REQUEST)) is None and storage.holds_anything(url):
        raise UserError(f"out {url} is not empty and holds no dataset", fix="give --out a new or empty folder")
    return folder, False


def claim(url: str, request: Mapping[str, Any]) -> None:
    """Marks `url` as the place of this build; a UserError where an unfinished build of other options has it."""
    asked, mark = digest(request).encode(), storage.join(url, REQUEST)
    if storage.read_bytes(mark) not in (None, asked):
        raise UserError(
            f"{url} holds an unfinished build of other options or of another source",
            fix="give another --out, or delete that folder to begin anew",
        )
    storage.write_bytes(mark, asked)


def deliver(folder: Path, url: str) -> None:
    """Moves the metadata of a finished dataset to `url`, the card last of all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".array_record-" not in path.name]
    paths.remove(folder / CARD_FILE)
    for path in [*paths, folder / CARD_FILE]:
        storage.put(path, storage.join(url, path.relative_to(folder).as_posix()))
    shutil.rmtree(folder)
