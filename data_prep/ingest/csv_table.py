"""Tables that come with a dataset: columns checked at start-up, rows one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import csv
from pathlib import Path

from radnet_jax.errors import UserError


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raises a UserError unless the table is there and has the columns; blanks around names don't count."""
    if not path.is_file():
        raise UserError(f"table {path.name} is missing", expected=f"a CSV file with the columns {', '.join(columns)}")
    found = _header(path)
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path.name} lacks the column(s) {', '.join(missing)}", got=", ".join(found) or "no header")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields the cells of the columns, row by row; what a short row lacks is "".

    Raises:
      UserError: a file that is no CSV in UTF-8.
    """
    names = _header(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, names, restval="")
            next(reader, None)
            for row in reader:
                yield {name: (row[name] or "").strip() for name in columns}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path.name} can't be read", got=type(error).__name__, expected="UTF-8 CSV") from error


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path.name} can't be read", got=type(error).__name__, expected="UTF-8 CSV") from error
