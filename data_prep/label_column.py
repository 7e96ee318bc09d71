"""The labels column of a table: what its cells hold decides the task.

one class a row          cat                       single_label; an empty cell is unlabelled
several findings         edema|mass, or none       multi_label; what is not listed is absent
findings with values     edema=1|mass=0|nodule=    multi_label; what is not listed, or has no value, is unknown
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import dataclasses

from radnet_jax.errors import UserError

NOTHING = ("none", "no finding", "no findings")
_KINDS = {"class": "a class", "number": "a number", "list": "a list of findings", "values": "findings with values"}


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How to read the cells of a column.

    Attributes:
      task: "single_label", "multi_label" or "none" (no cell holds anything).
      names: classes or findings in index order.
      rarity: findings from rare to frequent, which splits are balanced by.
      values: whether cells give each finding a value.
    """

    task: str
    names: tuple[str, ...]
    rarity: tuple[str, ...] = ()
    values: bool = False

    def read(self, cell: str) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """Stratum, class (-1 = unlabelled), findings and their mask, of a cell that `learn` has seen."""
        cell = cell.strip()
        if self.task != "multi_label":
            label = self.names.index(_class_name(cell)) if cell else -1
            return label, label, (), ()
        known = _findings(cell) if cell else {}
        if cell and not self.values:
            known = {name: known.get(name, 0) for name in self.names}
        labels = tuple(int(known.get(name) or 0) for name in self.names)
        mask = tuple(int(known.get(name) is not None) for name in self.names)
        ranks = [rank for rank, name in enumerate(self.rarity) if known.get(name)]
        return min(ranks, default=len(self.names)), -1, labels, mask


def learn(cells: Iterable[tuple[int, str]]) -> LabelRule:
    """Reads a whole column.

    Args:
      cells: (number of the line in the file, text) of each row.

    Raises:
      UserError: two tasks in one column (classes beside numbers, lists beside values), numbers that are no classes, a
        value other than 0 and 1. It names lines, never what stands in them.
    """
    first: dict[str, int] = {}
    names: Counter[str] = Counter()
    for line, text in cells:
        cell = text.strip()
        if not cell:
            continue
        first.setdefault(_kind(cell, line), line)
        if "=" in cell or "|" in cell:
            names.update({name: int(value or 0) for name, value in _findings(cell, line).items()})
        else:
            names[_class_name(cell)] += 1
    several = "list" in first
    if several:
        first.pop("class", None)  # one finding is a list of one
    if len(first) > 1:
        (one, at), (other, there) = sorted(first.items(), key=lambda item: item[1])[:2]
        raise UserError(
            "the column labels holds two tasks",
            got=f"{_KINDS[one]} in line {at}, {_KINDS[other]} in line {there}",
            expected="one kind in all rows",
            fix="build one dataset for each task",
        )
    if not first:
        return LabelRule("none", ())
    if several or "values" in first:
        found = sorted(name for name in names if name.lower() not in NOTHING)
        return LabelRule("multi_label", tuple(found), tuple(sorted(found, key=lambda n: (names[n], n))), not several)
    if "number" in first:
        return LabelRule("single_label", tuple(sorted(names, key=int)))
    return LabelRule("single_label", tuple(sorted(names)))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _kind(cell: str, line: int) -> str:
    if "=" in cell:
        return "values"
    if "|" in cell:
        return "list"
    number = _number(cell)
    if number is None:
        return "class"
    if number != number // 1:
        raise UserError(
            "the column labels holds a number that is no class",
            got=f"a fraction in line {line}",
            expected="class names, whole numbers, or findings",
        )
    return "number"


def _class_name(cell: str) -> str:
    """Classes 1 and 1.0 are one: tables with gaps are often written with a point."""
    number = _number(cell)
    return str(int(number)) if number is not None else cell


def _findings(cell: str, line: int = 0) -> dict[str, int | None]:
    """{finding: 1, 0 or None = unknown} of a cell."""
    found: dict[str, int | None] = {}
    for part in cell.split("|"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals and value not in ("0", "1", ""):
            raise UserError("a finding has a value that can't be read", got=f"line {line}", expected="0, 1 or nothing")
        if not equals and name.lower() in NOTHING:
            continue
        if name:
            found[name] = int(value) if value else (None if equals else 1)
    return found
