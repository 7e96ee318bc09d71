"""Tables of run-level results that somebody else made: one row a run, or one row a group with its mean and SD.

A table of runs has the columns pretraining, task, run, metric, value and may have experiment and variant. A table of
means has task, initialization, mean, std, n_runs and may have architecture, metric, source and reading. Neither holds
predictions of cases, so nothing can be said about other patients. docs/compare_your_runs.md is the user's page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
import numpy as np

from radnet_jax.errors import UserError, nearest

RUN_COLUMNS = ("pretraining", "task", "run", "metric", "value")
RUN_OPTIONAL = ("experiment", "variant")
MEAN_COLUMNS = ("task", "initialization", "mean", "std", "n_runs")
MEAN_OPTIONAL = ("architecture", "metric", "source", "reading")
_ALIKE = 3  # different values that two runs may not share all of
CASE_COLUMNS = ("case_id", "patient", "start", "seed")


class Place(NamedTuple):
    """What starts are compared on: experiment, task, variant of the task, metric."""

    experiment: str
    task: str
    variant: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs of one start at one place.

    Attributes:
      values: the metric of each run; NaN where the table has none.
      runs: their names; empty where the table holds only mean and SD.
      stated_mean: the mean that the table states, where it holds means.
    """

    place: Place
    start: str
    values: tuple[float, ...]
    runs: tuple[str, ...] = ()
    stated_mean: float = math.nan

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if math.isnan(self.stated_mean) else self.stated_mean

    @property
    def reason(self) -> str:
        """Why no test can be made of these runs, a key of verdicts.REASONS; empty where there is none."""
        if not np.isnan(self.values).any():
            return "" if len(self.values) > 1 else "one_run"
        return "undefined_metric" if math.isnan(self.stated_mean) else "no_sd"


def read_header(path: str | Path) -> list[str]:
    """The column names of a CSV.

    Raises:
      UserError: no file, not text, an empty or doubled column name, another separator than the comma.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path} can't be read ({error})", expected="a CSV file in UTF-8") from error
    doubled = sorted({name for name in header if header.count(name) > 1 or not name})
    if doubled or not header:
        raise UserError(f"table {path}: column names", got=repr(doubled), expected="different names in the first line")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise UserError(f"table {path} has one column", got=repr(header[0]), expected="columns divided by commas")
    return header


def layout(path: str | Path) -> str:
    """Which table a file is: "runs", "means" or "cases" (predictions), by its columns.

    Raises:
      UserError: none of them.
    """
    header = read_header(path)
    for name, column in (("cases", "case_id"), ("means", "mean"), ("runs", "value")):
        if column in header:
            return name
    raise UserError(
        f"table {path} has none of the known layouts",
        got=", ".join(header),
        expected=" / ".join(", ".join(c) for c in (RUN_COLUMNS, MEAN_COLUMNS, (*CASE_COLUMNS, "score_<label>"))),
    )


def check_columns(path: str | Path, header: Sequence[str], needed: Sequence[str], optional: Iterable[str]) -> None:
    """Refuses a table that lacks a column, or has one that nothing would read."""
    missing = [c for c in needed if c not in header]
    known = (*needed, *optional)
    if missing:
        hint = nearest(missing[0], [c for c in header if c not in known])
        raise UserError(f"table {path} lacks the column(s) {', '.join(missing)}{hint}", got=", ".join(header))
    for column in header:
        if column not in known:
            raise UserError(
                f"table {path}: unknown column {column!r}{nearest(column, known)}", expected=", ".join(known)
            )


def number(path: str | Path, line: int, column: str, text: str) -> float:
    """A cell as a number; NaN for an empty cell or "nan". Text and infinities are refused."""
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise UserError(f"table {path} line {line}: {column}", got=repr(text), expected="a number, or nothing")
    return value


def _rows(path: str | Path, header: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV as (line, cells by column), spaces around cells taken off."""
    out = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            next(reader)
            for row in filter(None, reader):
                if len(row) != len(header):
                    where = f"table {path} line {reader.line_num}"
                    raise UserError(where, got=f"{len(row)} cells", expected=len(header))
                out.append((reader.line_num, {k: v.strip() for k, v in zip(header, row)}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path} can't be read ({error})", expected="a CSV file in UTF-8") from error
    if not out:
        raise UserError(f"table {path} has no rows")
    return out


def read_results(
    path: str | Path, *, scale: float = 1.0, experiments: Sequence[str] = (), std_ddof: int = 1
) -> list[Cell]:
    """Reads a table of runs or of means, in the order of its rows.

    Args:
      path: the CSV file.
      scale: values are multiplied by it: 0.01 for a table in per cent.
      experiments: keep these only (column experiment, or source); all where empty.
      std_ddof: 1 where the SDs of a table of means divide by n - 1, 0 where they divide by n.

    Raises:
      UserError: a missing or unknown column, text where a number belongs, a row without a name, a run or group that
        stands twice, an experiment that is not there, SDs without two runs.
    """
    header = read_header(path)
    means = "mean" in header
    check_columns(path, header, *((MEAN_COLUMNS, MEAN_OPTIONAL) if means else (RUN_COLUMNS, RUN_OPTIONAL)))
    rows = _rows(path, header)
    cells = _read_means(path, rows, scale, std_ddof) if means else _read_runs(path, rows, scale)
    found = list(dict.fromkeys(cell.place.experiment for cell in cells))
    for name in experiments:
        if name not in found:
            raise UserError(f"no experiment {name!r} in {path}{nearest(name, found)}", expected=", ".join(found))
    return [cell for cell in cells if not experiments or cell.place.experiment in experiments]


def _named(path: str | Path, line: int, row: Mapping[str, str], columns: Sequence[str]) -> None:
    for column in columns:
        if not row[column]:
            raise UserError(f"table {path} line {line}: {column} is empty", expected="a name")


def _read_runs(path: str | Path, rows: Sequence[tuple[int, Mapping[str, str]]], scale: float) -> list[Cell]:
    groups: dict[tuple[Place, str], dict[str, float]] = {}
    for line, row in rows:
        _named(path, line, row, RUN_COLUMNS[:4])
        place = Place(row.get("experiment", ""), row["task"], row.get("variant", ""), row["metric"])
        group = groups.setdefault((place, row["pretraining"]), {})
        if row["run"] in group:
            where = " ".join(filter(None, (*place, row["pretraining"], f"run {row['run']}")))
            raise UserError(f"table {path} line {line}: {where} stands twice", fix="remove one of the rows")
        group[row["run"]] = scale * number(path, line, "value", row["value"])
    cells = [Cell(place, start, tuple(g.values()), tuple(g)) for (place, start), g in groups.items()]
    _check_copies(path, cells)
    return cells


def _check_copies(path: str | Path, cells: Sequence[Cell]) -> None:
    """Refuses two runs of a start with the same values of three metrics or more: a copy under another name.

    Fewer metrics may be alike by chance: shares of a small test split are, to the digits of a table.
    """
    runs: dict[tuple[str, ...], dict[str, float]] = {}
    for cell in cells:
        for name, value in zip(cell.runs, cell.values):
            runs.setdefault((*cell.place[:3], cell.start, name), {})[cell.place.metric] = value
    seen: dict[tuple[object, ...], str] = {}
    for (*place, start, name), values in runs.items():
        known = tuple(sorted((m, v) for m, v in values.items() if not math.isnan(v)))
        if len({v for _, v in known}) < _ALIKE:
            continue
        other = seen.setdefault((*place, start, known), name)
        if other != name:
            where = " ".join(filter(None, (*place, start)))
            raise UserError(
                f"table {path}: runs {other} and {name} of {where} have the same value of every metric",
                fix="remove the copy",
            )


def _read_means(path: str | Path, rows: Sequence[tuple[int, Mapping[str, str]]], scale: float, ddof: int) -> list[Cell]:
    cells: dict[tuple[Place, str], Cell] = {}
    for line, row in rows:
        _named(path, line, row, MEAN_COLUMNS[:2])
        place = Place(row.get("source", ""), row["task"], row.get("architecture", ""), row.get("metric", "score"))
        key = (place, row["initialization"])
        if key in cells:
            where = " ".join(filter(None, (*place, row["initialization"])))
            raise UserError(f"table {path} line {line}: {where} stands twice", fix="remove one of the rows")
        mean, sd, n = (number(path, line, c, row[c]) for c in MEAN_COLUMNS[2:])
        if not n >= 1 or n != int(n):
            raise UserError(f"table {path} line {line}: n_runs", got=row["n_runs"], expected="a whole number from 1 on")
        if sd < 0:
            raise UserError(f"table {path} line {line}: std", got=row["std"], expected="at least 0")
        values = values_with(scale * mean, scale * sd, int(n), ddof=ddof)
        cells[key] = Cell(place, row["initialization"], tuple(values.tolist()), stated_mean=scale * mean)
    return list(cells.values())


def values_with(mean: float, sd: float, n: int, *, ddof: int = 1) -> Float[np.ndarray, " n"]:
    """n values with exactly this mean and SD: t-tests see runs through mean, SD and n only.

    Args:
      mean: of the values.
      sd: of the values; NaN where it is not known, which makes all values NaN where n > 1: no test can be made.
      n: how many.
      ddof: 1 where `sd` divides by n - 1, 0 where it divides by n.
    """
    if n == 1:
        return np.array([mean])
    steps = np.linspace(-1.0, 1.0, n)
    return mean + sd * steps / steps.std(ddof=ddof)
