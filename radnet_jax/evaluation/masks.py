"""What a run of segmentation leaves of each case: counts and distances by region, counts by slice, and the mask itself.

They are further columns of predictions.parquet, so that every metric and every picture can be made again without the
network. A case is a volume, or an image that belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import math
from typing import Any

from jaxtyping import Int, UInt8
import numpy as np
import pyarrow as pa

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics.lesions import Lesions
from radnet_jax.evaluation.metrics.overlap import Cases, stack

COUNTS = ("overlap", "predicted", "truth")
MEASURED = ("hd95", "nsd")
COLUMNS = (*COUNTS, *MEASURED, "lesions", "slices", "mask", "mask_shape")


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of some cases, as they were predicted and judged.

    Attributes:
      cases: by case and region, see `overlap.Cases`.
      slices: by case, |P and T|, |P| and |T| of each slice in their order.
      runs: by case, the predicted mask as `encode` gives it.
      shapes: by case, of that mask.
    """

    cases: Cases
    slices: tuple[Int[np.ndarray, "s k 3"], ...]
    runs: tuple[Int[np.ndarray, " r"], ...]
    shapes: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.runs)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " m"]) -> Masks:
        """The cases with these numbers, in this order."""
        rows = [int(i) for i in rows]
        return Masks(
            self.cases.take(rows),
            slices=tuple(self.slices[i] for i in rows),
            runs=tuple(self.runs[i] for i in rows),
            shapes=tuple(self.shapes[i] for i in rows),
        )

    def mask(self, row: int) -> UInt8[np.ndarray, "*shape"]:
        """The predicted mask of a case."""
        return decode(self.runs[row], self.shapes[row])

    def largest(self, row: int) -> tuple[int, UInt8[np.ndarray, "h w"]]:
        """The number of a case's slice whose truth, or, where that is empty, whose prediction is largest, and the mask
        that was predicted there.
        """
        predicted, truth = (self.slices[row][..., i].sum(axis=1) for i in (1, 2))
        number = int(np.argmax(truth if truth.any() else predicted))
        mask = self.mask(row)
        return number, mask.reshape(-1, *mask.shape[-2:])[number]

    def of_slices(self) -> Cases:
        """A row for each slice of all cases, in their order."""
        overlap, predicted, truth = np.moveaxis(np.concatenate(self.slices), -1, 0)
        known = np.repeat(self.cases.all_known, [len(s) for s in self.slices], axis=0)
        return Cases(self.cases.regions, overlap, predicted, truth, known=known)

    def to_columns(self) -> dict[str, pa.Array]:
        """Columns of a table, a row for each case."""
        cases = self.cases
        columns = {name: _lists(np.asarray(getattr(cases, name), np.int64)) for name in COUNTS}
        for name in MEASURED:
            if getattr(cases, name) is not None:
                columns[name] = _lists(np.asarray(getattr(cases, name), np.float64))
        if cases.lesions is not None:
            columns["lesions"] = pa.array([_to_json(row) for row in cases.lesions])
        columns["slices"] = pa.array([s.ravel() for s in self.slices], pa.list_(pa.int64()))
        columns["mask"] = pa.array(self.runs, pa.list_(pa.int32()))
        columns["mask_shape"] = pa.array([list(s) for s in self.shapes], pa.list_(pa.int32()))
        return columns

    @classmethod
    def from_table(cls, table: pa.Table, regions: Sequence[str], known: np.ndarray) -> Masks:
        """Reads the columns back; `known` [n k] stands in a column of its own."""
        n, k = table.num_rows, len(regions)

        def matrix(name: str) -> np.ndarray:
            return np.concatenate([*_rows(table, name), np.zeros(0)]).reshape(n, k)

        parts: dict[str, Any] = {name: matrix(name).astype(np.int64) for name in COUNTS}
        parts |= {name: matrix(name) for name in MEASURED if name in table.column_names}
        if "lesions" in table.column_names:
            parts["lesions"] = tuple(_from_json(text) for text in table["lesions"].to_pylist())
        cases = Cases(tuple(regions), **parts, known=known)
        slices = tuple(s.reshape(-1, k, 3) for s in _rows(table, "slices"))
        return cls(
            cases, slices, tuple(_rows(table, "mask")), tuple(tuple(s.tolist()) for s in _rows(table, "mask_shape"))
        )


def join(parts: Iterable[Masks]) -> Masks:
    """Puts masks one below the other; where some cases lack a measurement (no spacing), it is NaN for them."""
    parts = list(parts)
    measured = {name for name in MEASURED for p in parts if getattr(p.cases, name) is not None}

    def filled(cases: Cases) -> Cases:
        nothing = np.full(cases.overlap.shape, np.nan)
        absent: dict[str, Any] = {name: nothing for name in measured if getattr(cases, name) is None}
        return dataclasses.replace(cases, **absent)

    return Masks(
        stack(filled(p.cases) for p in parts),
        slices=tuple(s for p in parts for s in p.slices),
        runs=tuple(r for p in parts for r in p.runs),
        shapes=tuple(s for p in parts for s in p.shapes),
    )


def encode(mask: UInt8[np.ndarray, "*shape"]) -> Int[np.ndarray, " r"]:
    """Runs of equal values along the flattened mask, as value, length, value, length, ..."""
    flat = np.asarray(mask).ravel()
    if not flat.size:
        return np.zeros(0, np.int32)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    return np.stack([flat[starts].astype(np.int32), lengths.astype(np.int32)], axis=1).ravel()


def decode(runs: Int[np.ndarray, " r"], shape: Sequence[int]) -> UInt8[np.ndarray, "*shape"]:
    """Undoes `encode`.

    Raises:
      UserError: runs that do not fill the shape.
    """
    values, lengths = np.asarray(runs).reshape(-1, 2).T
    if int(lengths.sum()) != math.prod(shape):
        raise UserError("the runs of a mask do not fill it", got=int(lengths.sum()), expected=math.prod(shape))
    return np.repeat(values.astype(np.uint8), lengths).reshape(tuple(shape))


def _rows(table: pa.Table, name: str) -> list[np.ndarray]:
    """The lists of a column, without a Python object for each of their values."""
    column = table[name].combine_chunks()
    ends = np.asarray(column.offsets)[1:-1] - int(column.offsets[0].as_py())
    return np.split(column.flatten().to_numpy(zero_copy_only=False), ends) if len(column) else []


def _lists(values: np.ndarray) -> pa.Array:
    n, k = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * k, pa.int32()), pa.array(values.reshape(-1)))


def _to_json(row: Sequence[Lesions]) -> str:
    def plain(found: Lesions) -> dict[str, Any]:
        data = dataclasses.asdict(found)
        return data | {"hd95": [None if math.isnan(d) else d for d in found.hd95]}

    return json.dumps([plain(found) for found in row])


def _from_json(text: str) -> tuple[Lesions, ...]:
    def lesions(data: Mapping[str, Any]) -> Lesions:
        distances = tuple(math.nan if d is None else d for d in data["hd95"])
        values = {k: tuple(data[k]) for k in ("volume", "dice", "found")}
        return Lesions(**values, hd95=distances, n_false=data["n_false"])

    return tuple(lesions(data) for data in json.loads(text))
