"""Whose images belong together: files that share a patient id, a study or a series are of one patient."""

from __future__ import annotations

from collections.abc import Sequence
import sqlite3

_SCHEMA = "CREATE TABLE names (name TEXT PRIMARY KEY, rank INTEGER, parent TEXT) WITHOUT ROWID"
# Pointer jumping: each round halves the way of every name to the root of its group.
_FLATTEN = """
UPDATE names SET parent = (SELECT up.parent FROM names AS up WHERE up.name = names.parent)
WHERE parent <> (SELECT up.parent FROM names AS up WHERE up.name = names.parent)
"""
# The key of a group is the first by alphabet of its widest names: a patient id if it has any.
_KEYS = """
CREATE TABLE keys AS SELECT name, MIN(rank) OVER same = 0 AS named,
  FIRST_VALUE(name) OVER (same ORDER BY rank, name) AS key FROM names WINDOW same AS (PARTITION BY parent);
CREATE UNIQUE INDEX keys_by_name ON keys (name);
"""


class Groups:
    """Union-find over names in a database. Holds one entry for each patient, study and series, none for a file.

    The groups and their keys depend on the names alone, not on the order in which they were added.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._last: Sequence[str] = ()
        database.execute(_SCHEMA)

    def add(self, names: Sequence[str]) -> None:
        """Joins the names of one file, from the widest (the patient) to the narrowest (the series); "" = not known."""
        if names == self._last:  # files of a series come one after another
            return
        self._last = names
        first = ""
        for rank, name in enumerate(names):
            if name:
                self._database.execute(
                    "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET rank = MIN(rank, excluded.rank)",
                    (name, rank, name),
                )
                first = first or name
                self.join(first, name)

    def join(self, one: str, other: str) -> None:
        """Joins the groups of two names that were added."""
        low, high = sorted((self._root(one), self._root(other)))
        if low != high:
            self._database.execute("UPDATE names SET parent = ? WHERE name = ?", (low, high))

    def finish(self) -> int:
        """Writes the table keys (name, named, key of its group), where `named` says that the group has a patient id.

        Returns:
          Number of groups that hold more than one patient id.
        """
        while self._database.execute(_FLATTEN).rowcount:
            pass
        self._database.executescript(_KEYS)
        query = "SELECT COUNT(*) FROM (SELECT 1 FROM names WHERE rank = 0 GROUP BY parent HAVING COUNT(*) > 1)"
        return int(self._database.execute(query).fetchone()[0])

    def _root(self, name: str) -> str:
        above, root = name, self._parent(name)
        while root != above:
            above, root = root, self._parent(root)
        if root != name:
            self._database.execute("UPDATE names SET parent = ? WHERE name = ?", (root, name))
        return root

    def _parent(self, name: str) -> str:
        return str(self._database.execute("SELECT parent FROM names WHERE name = ?", (name,)).fetchone()[0])
