"""Tables over the lines of the manifest: labels, facts, sizes, spacings; fed shard by shard, so memory stays flat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.spec import DatasetSpec

UNLABELLED = "unlabelled"
UNKNOWN = "unknown"
_COMMONEST = 10
# Decimals to which lengths in mm are counted; scanners give spacings such as 0.9765625.
_DECIMALS = 3


class Summary:
    """Counts of one split."""

    def __init__(self, spec: DatasetSpec):
        self._spec = spec
        self._records = self._series = self._plain = 0
        self._last_series = ""
        self._persons = np.zeros(0, bool)
        self._labels: Counter[str] = Counter()
        self._known: Counter[str] = Counter()
        self._facts: dict[str, Counter[str]] = {name: Counter() for name in spec.facts}
        self._sizes: Counter[tuple[float, ...]] = Counter()
        self._spacings: Counter[tuple[float, ...]] = Counter()
        self._thicknesses: Counter[tuple[float, ...]] = Counter()

    def add(self, lines: pa.Table) -> None:
        """Adds the lines of the next records of the split, with the columns of `manifest.parquet` and `person`."""
        if not lines.num_rows:
            return
        self._records += lines.num_rows
        self._plain += lines["phash"].null_count
        persons = lines["person"].to_numpy()
        self._persons = np.pad(self._persons, (0, max(0, int(persons.max()) + 1 - len(self._persons))))
        self._persons[persons] = True
        series = [self._last_series, *lines["series"].to_pylist()]  # those of one series stand together
        self._series += sum(bool(now) and now != before for before, now in itertools.pairwise(series))
        self._last_series = series[-1]
        self._add_labels(lines)
        for name, counts in self._facts.items():
            counts.update(value or UNKNOWN for value in lines[name].to_pylist())
        for counter, columns in (
            (self._sizes, ("rows", "columns")),
            (self._spacings, ("row_spacing", "column_spacing")),
            (self._thicknesses, ("thickness",)),
        ):
            counter.update(_tuples(lines.select(columns)))

    def _add_labels(self, lines: pa.Table) -> None:
        names = self._spec.labels
        if self._spec.task == "single_label":
            for entry in pc.value_counts(lines["label"].combine_chunks()).to_pylist():
                index, n = entry["values"], entry["counts"]
                self._labels[names[index] if index >= 0 else UNLABELLED] += n
        elif self._spec.task == "multi_label":
            values, known = (
                pc.list_flatten(lines[c].combine_chunks()).to_numpy().reshape(-1, len(names)).astype(np.int64)
                for c in ("labels", "label_mask")
            )
            self._labels.update(_positive(dict(zip(names, (values * known).sum(axis=0).tolist()))))
            self._known.update(dict(zip(names, known.sum(axis=0).tolist())))

    def labels(self) -> dict[str, int]:
        """{label name: records}; a finding counts its positives, an unlabelled image of a single-label task itself."""
        return dict(sorted(self._labels.items()))

    def to_json(self) -> dict[str, Any]:
        """The split for build.json; `known` counts for each finding the records where it is known."""
        out: dict[str, Any] = {
            "records": self._records,
            "patients": int(self._persons.sum()),
            "series": self._series,
            "plain": self._plain,
            "labels": self.labels(),
            "facts": {name: dict(sorted(counts.items())) for name, counts in self._facts.items()},
            "size": _table(self._sizes),
            "spacing": _table(self._spacings),
            "thickness": _table(self._thicknesses),
        }
        return out | ({"known": dict(self._known)} if self._spec.task == "multi_label" else {})


def _tuples(table: pa.Table) -> Iterable[tuple[float, ...]]:
    """Rows without nulls; lengths in mm rounded."""
    known = table.drop_null()
    columns = (np.asarray(c) for c in known.columns)
    rounded = (np.round(c.astype(np.float64), _DECIMALS) if c.dtype.kind == "f" else c for c in columns)
    return zip(*(c.tolist() for c in rounded))


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n}


def _table(counts: Counter[tuple[float, ...]]) -> dict[str, Any]:
    """What values occur: how many are known and how many differ, the extremes and the median, the commonest ten.

    Pairs are ordered by their product.
    """
    ordered = sorted(counts, key=lambda value: (float(np.prod(value)), value))
    places = np.cumsum([counts[value] for value in ordered])
    known = int(places[-1]) if ordered else 0
    return {
        "known": known,
        "distinct": len(ordered),
        "smallest": ordered[0] if ordered else None,
        "median": ordered[int(np.searchsorted(places, known / 2))] if ordered else None,
        "largest": ordered[-1] if ordered else None,
        "commonest": sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_COMMONEST],
    }
