"""Working tables on disk, so that memory stays flat in the number of files, patients and records."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import sqlite3


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[sqlite3.Connection]:
    """Yields a new database that appears at `path` once the block has ended well.

    It has no journal: what was begun is begun anew. What SQLite sorts goes beside it, not to /var/tmp, which can be
    small and is shared.
    """
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    folder = str(path.parent).replace("'", "''")
    database = sqlite3.connect(unfinished)
    try:
        database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store_directory = '{folder}';"
        )
        yield database
        database.commit()
    finally:
        database.execute("PRAGMA temp_store_directory = ''")
        database.close()
    flush(unfinished)
    os.replace(unfinished, path)


def flush(path: Path) -> None:
    """Brings the bytes of a file to the disk, before it gets the name by which it counts: a power cut can't leave an
    empty one.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
