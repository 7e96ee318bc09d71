"""Tables that come with a dataset, plain or gzipped: columns checked at start-up, rows one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import csv
import gzip
from pathlib import Path
from typing import TextIO
import zlib

from radnet_jax.errors import UserError


def check_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Returns the names of all columns; raises a UserError unless the table is there and has `columns`; blanks around
    names don't count.
    """
    if not path.is_file():
        raise UserError(f"table {path.name} is missing", expected=f"a CSV file with the columns {', '.join(columns)}")
    found = _header(path)
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path.name} lacks the column(s) {', '.join(missing)}", got=", ".join(found) or "no header")
    return found


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields the cells of the columns, row by row; what a short row lacks is "".

    Raises:
      UserError: a file that is no CSV in UTF-8, a cell with a NUL byte, which no name of a file can hold.
    """
    names = _header(path)
    with _opened(path) as file:
        reader = csv.DictReader(file, names, restval="")
        next(reader, None)
        for row in reader:
            if any("\0" in cell for cell in row.values() if isinstance(cell, str)):
                raise UserError(f"line {reader.line_num} of {path.name} has a NUL byte", expected="UTF-8 CSV")
            yield {name: (row[name] or "").strip() for name in columns}


def read_lines(path: Path) -> list[str]:
    """The lines of a list, without blanks around them and empty ones; a UserError as `read_rows`."""
    with _opened(path) as file:
        return [line.strip() for line in file if line.strip()]


def _header(path: Path) -> list[str]:
    with _opened(path) as file:
        return [name.strip() for name in next(csv.reader(file), [])]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path.name} can't be read", got=type(error).__name__, expected="UTF-8 CSV") from error
