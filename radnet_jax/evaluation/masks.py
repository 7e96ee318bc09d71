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
from radnet_jax.evaluation.metrics import Metric
from radnet_jax.evaluation.metrics.conventions import CONVENTIONS
from radnet_jax.evaluation.metrics.lesions import Lesions
from radnet_jax.evaluation.metrics.overlap import OVERLAPS, Cases, stack

COUNTS = ("overlap", "predicted", "truth")
MEASURED = ("hd95", "nsd")
_IN_MM = ("volume", "hd95")  # of lesions; NaN where they are not known
_OF_CHALLENGE = {"lits": ("lits_per_case", "lits_global"), "brats": ("brats_2020",)}
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


def metrics_of(masks: Masks, regions: str, *, seed: int = 0) -> dict[str, Metric]:
    """What the conventions make of a split's masks: {"dice_pooled": ..., "hd95_per_volume": ...}.

    Names are metric_convention; those that are means of Dice over cases are in METRICS too. Volumes have a mean over
    slices and the RadNet study's figure beside it, whose value depends on the order of the slices: `seed` draws it.

    Args:
      masks: of the split's cases.
      regions: what was judged, the `regions` of the run's `segmentation.Rules`. A challenge's conventions stand there
        for its own regions only: a liver without its tumours is not what LiTS scores.
      seed: of the order of the slices.
    """
    cases = masks.cases
    wanted = [(m, c) for m in OVERLAPS for c in ("per_volume", "pooled")]
    wanted += [("dice", c) for c in ("positives_only", "nnunet", *_OF_CHALLENGE.get(regions, ("btl_per_image",)))]
    if cases.hd95 is not None:
        wanted.append(("hd95", "per_volume"))
        wanted += [("hd95", "brats_2020")] if regions == "brats" else []
    if cases.nsd is not None:
        wanted.append(("nsd", "per_volume"))
    if cases.lesions is not None:
        wanted += [("lesion_dice", "per_volume"), ("lesion_f1", "per_volume"), ("lesion_f1", "pooled")]
        if regions == "brats":
            wanted += [(m, "brats_2023_lesionwise") for m in ("lesion_dice", "lesion_hd95")]
    found: dict[str, Metric] = {f"{metric}_{name}": CONVENTIONS.get(name)(cases, metric) for metric, name in wanted}
    if any(len(s) > 1 for s in masks.slices):
        slices = masks.of_slices()
        found["dice_per_slice"] = CONVENTIONS.get("per_slice")(slices)
        shuffled = slices.take(np.random.default_rng(seed).permutation(len(slices)))
        found["dice_radnet_published"] = CONVENTIONS.get("radnet_published")(shuffled)
    return found


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
        in_mm = {name: [None if math.isnan(x) else x for x in getattr(found, name)] for name in _IN_MM}
        return dataclasses.asdict(found) | in_mm

    return json.dumps([plain(found) for found in row], allow_nan=False)


def _from_json(text: str) -> tuple[Lesions, ...]:
    def lesions(data: Mapping[str, Any]) -> Lesions:
        in_mm = {name: tuple(math.nan if x is None else x for x in data[name]) for name in _IN_MM}
        return Lesions(dice=tuple(data["dice"]), found=tuple(data["found"]), n_false=data["n_false"], **in_mm)

    return tuple(lesions(data) for data in json.loads(text))
