"""Whose images belong together: files that share a patient id, a study or a series are of one patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class Groups:
    """Union-find over names. Holds one entry for each patient, study and series, none for a file.

    The groups and their keys depend on the names alone, not on the order in which they were added.
    """

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._rank: dict[str, int] = {}

    def add(self, names: Sequence[str]) -> None:
        """Joins the names of one file, from the widest (the patient) to the narrowest (the series); "" = not known."""
        first = ""
        for rank, name in enumerate(names):
            if name:
                self._parent.setdefault(name, name)
                self._rank.setdefault(name, rank)
                first = first or name
                self.join(first, name)

    def join(self, one: str, other: str) -> None:
        """Joins the groups of two names that were added."""
        one, other = self._root(one), self._root(other)
        # The key of a group is the first by alphabet of its widest names: a patient id if it has any.
        low, high = sorted((one, other), key=lambda name: (self._rank[name], name))
        self._parent[high] = low

    def renamed(self) -> Iterator[tuple[str, str]]:
        """(name, key of its group) where the two differ."""
        for name in self._parent:
            if (key := self._root(name)) != name:
                yield name, key

    def several_patients(self) -> int:
        """Number of groups that hold more than one patient id."""
        return len({key for name, key in self.renamed() if self._rank[name] == 0})

    def _root(self, name: str) -> str:
        while (parent := self._parent[name]) != name:
            self._parent[name] = name = self._parent[parent]  # halves the path for the next search
        return name
