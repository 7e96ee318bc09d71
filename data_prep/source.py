"""What tells one source from another, without reading all of it."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
import stat
from typing import NamedTuple

from data_prep.spec import DatasetSpec

SMALL = 64 << 20  # bytes; below, reading all of it costs next to nothing


class Fingerprint(NamedTuple):
    """Attributes:
    content: SHA-256 over names and lengths of all files and the content of the tables; for sources under 64 MiB the
      content of the other files too. A copy of a source is the same.
    times: SHA-256 over when the files were changed last; "" where `content` knows of every change.
    files: their number.
    """

    content: str
    times: str
    files: int


def fingerprint(spec: DatasetSpec, source: Path, is_whole: bool = True) -> Fingerprint:
    """Looks at every file, and reads them where that costs little; without `is_whole` only the tables are what they
    seem to be.
    """
    listing, times = hashlib.sha256(), hashlib.sha256()
    files = size = 0
    for path in spec.files(source):
        with contextlib.suppress(OSError):  # a dangling link; the header pass rejects it
            status = (source / path).stat()
            length = status.st_size if stat.S_ISREG(status.st_mode) else 0  # a folder's length changes by itself
            listing.update(f"{path}\0{length}\0".encode(errors="surrogateescape"))
            times.update(status.st_mtime_ns.to_bytes(8, "little", signed=True))
            size += length
        files += 1
    small = size < SMALL and is_whole
    for path in spec.files(source) if small else spec.tables:
        with contextlib.suppress(OSError):
            if stat.S_ISREG((source / path).stat().st_mode):  # opening a pipe would wait for ever
                with (source / path).open("rb") as file:
                    listing.update(hashlib.file_digest(file, "sha256").digest())
    return Fingerprint(listing.hexdigest(), "" if small else times.hexdigest(), files)
