"""What is kept of each segmented case, and the metrics of one case: Dice, IoU, precision, recall, surface, lesions.

`measure` reads the masks of one case once; everything else (`conventions`) is computed from what it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from jaxtyping import Bool, Float, Int, Shaped
import numpy as np

from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.metrics.lesions import LesionRule, Lesions, lesions
from radnet_jax.evaluation.metrics.surface import (
    Spacing,
    bounding_box,
    check_spacing,
    hausdorff,
    surface_dice,
    surfaces,
)

Regions = Mapping[str, tuple[int, ...]]
"""Names to the class indices that a region is made of; class indices are what stands in a mask."""

LITS: Regions = {"liver": (1, 2), "tumour": (2,)}
"""LiTS as the challenge judges it: the liver includes its tumours (Bilic et al., Med. Image Anal. 84, 2023)."""

LITS_LIVER_WITHOUT_TUMOUR: Regions = {"liver": (1,), "tumour": (2,)}
"""LiTS as the RadNet study judged it."""

BRATS: Regions = {"ET": (3, 4), "TC": (1, 3, 4), "WT": (1, 2, 3, 4)}
"""BraTS: enhancing tumour, tumour core, whole tumour; enhancing is class 4 up to 2020 and 3 from 2023 on."""


@dataclasses.dataclass(frozen=True)
class Cases:
    """What is kept of segmented cases, by case and region.

    A row is whatever the convention counts as a case: a volume, a slice or an image.

    Attributes:
      regions: the regions' names.
      overlap: voxels in both, |P and T|.
      predicted: voxels of the prediction, |P|.
      truth: voxels of the truth, |T|.
      known: where the truth is known; None: everywhere.
      hd95: HD95, NaN where a mask is empty; None: not measured.
      nsd: normalised surface Dice, NaN where both masks are empty; None: not measured.
      lesions: the lesions by case, then by region; None: not measured.

    Raises:
      UserError: shapes that differ, or counts that no masks have.
    """

    regions: tuple[str, ...]
    overlap: Int[np.ndarray, "n k"]
    predicted: Int[np.ndarray, "n k"]
    truth: Int[np.ndarray, "n k"]
    known: Bool[np.ndarray, "n k"] | None = None
    hd95: Float[np.ndarray, "n k"] | None = None
    nsd: Float[np.ndarray, "n k"] | None = None
    lesions: tuple[tuple[Lesions, ...], ...] | None = None

    def __post_init__(self) -> None:
        shape = (len(self), len(self.regions))
        for name in ("overlap", "predicted", "truth", "known", "hd95", "nsd"):
            value = getattr(self, name)
            if value is not None:
                value = np.asarray(value)
                if value.shape != shape:
                    raise UserError(f"{name} of the cases has another shape", got=value.shape, expected=shape)
                object.__setattr__(self, name, value)
        if self.lesions is not None and [len(row) for row in self.lesions] != [shape[1]] * shape[0]:
            raise UserError("lesions of the cases have another shape", expected=f"{shape[0]} rows of {shape[1]}")
        counts = np.stack([self.overlap, self.predicted, self.truth])
        # Written so that a NaN fails too.
        if not ((counts >= 0).all() and (self.overlap <= np.minimum(self.predicted, self.truth)).all()):
            raise UserError("counts that no masks have", expected="0 <= |P and T| <= |P| and |T|")

    def __len__(self) -> int:
        return len(self.overlap)

    @property
    def all_known(self) -> Bool[np.ndarray, "n k"]:
        return np.ones(self.overlap.shape, bool) if self.known is None else np.asarray(self.known, bool)

    def take(self, rows: Int[np.ndarray, " m"] | Sequence[int]) -> Cases:
        """The cases with these numbers, in this order, a number as often as it stands there: a bootstrap's resample."""
        rows = np.asarray(rows, int)
        parts: dict[str, Any] = {
            f: None if getattr(self, f) is None else getattr(self, f)[rows]
            for f in ("overlap", "predicted", "truth", "known", "hd95", "nsd")
        }
        picked = None if self.lesions is None else tuple(self.lesions[i] for i in rows.tolist())
        return Cases(self.regions, **parts, lesions=picked)

    def by(self, groups: Shaped[np.ndarray, " n"] | Sequence[object]) -> Cases:
        """One row for each group, in sorted order: counts are added up, as from slices to volumes.

        Distances and lesions can't be added and are left out. A region of a group is known where all its rows are.

        Raises:
          UserError: not one group for each row.
        """
        if len(groups) != len(self):
            raise UserError("not one group for each case", got=len(groups), expected=len(self))
        names, inverse = np.unique(np.asarray(groups), return_inverse=True)

        def add(x: np.ndarray) -> np.ndarray:
            total = np.zeros((len(names), x.shape[1]), x.dtype)
            np.add.at(total, inverse, x)
            return total

        unknown = add((~self.all_known).astype(np.int64))
        return Cases(self.regions, add(self.overlap), add(self.predicted), add(self.truth), known=unknown == 0)


def stack(cases: Iterable[Cases]) -> Cases:
    """Puts cases one below the other.

    Raises:
      UserError: none, other regions, or a measurement that only some have.
    """
    parts = list(cases)
    if not parts:
        raise UserError("no cases to stack")
    first = parts[0]
    together: dict[str, Any] = {}
    for other in parts[1:]:
        if other.regions != first.regions:
            raise UserError("cases of other regions", got=other.regions, expected=first.regions)
    for name in ("overlap", "predicted", "truth", "hd95", "nsd", "lesions"):
        values = [getattr(p, name) for p in parts]
        if len({v is None for v in values}) > 1:
            raise UserError(f"only some of the cases have {name}", fix="measure all of them alike")
        if values[0] is not None:
            together[name] = sum(values, ()) if name == "lesions" else np.concatenate(values)
    return Cases(first.regions, known=np.concatenate([p.all_known for p in parts]), **together)


def measure(
    prediction: Int[np.ndarray, "*shape"],
    truth: Int[np.ndarray, "*shape"],
    regions: Regions,
    *,
    spacing: Spacing | None = None,
    tolerance: float | Mapping[str, float] | None = None,
    lesion_rule: LesionRule | None = None,
    known: Bool[np.ndarray, "*shape"] | None = None,
) -> Cases:
    """Measures one case from its masks of class indices.

    Args:
      prediction: class indices, 0 for the background.
      truth: class indices, of the same shape.
      regions: what is judged, say `LITS`.
      spacing: size of a voxel along each axis, in mm; None: no surfaces and no lesions.
      tolerance: of the surface Dice in mm, for all regions or by name; None: it is not measured.
      lesion_rule: what one lesion is, say `lesions.BRATS_2023`; None: lesions are not measured.
      known: voxels whose truth is known; the others are taken for background in both masks. None: all are.

    Returns:
      One row.

    Raises:
      UserError: shapes that differ, class indices of no region, or a measurement that needs the spacing.
    """
    prediction, truth = _checked(prediction, truth, regions)
    if spacing is None and (tolerance is not None or lesion_rule is not None):
        raise UserError("surfaces and lesions need the spacing of the voxels", fix="pass spacing=(z, y, x) in mm")
    size = None if spacing is None else check_spacing(spacing, prediction.shape, truth.shape)
    if known is not None:
        if np.shape(known) != truth.shape:
            raise UserError("known has another shape", got=np.shape(known), expected=truth.shape)
        prediction, truth = np.where(known, prediction, 0), np.where(known, truth, 0)
    if not any(0 in classes for classes in regions.values()):
        box = bounding_box((prediction != 0) | (truth != 0)) or (slice(0, 1),) * truth.ndim
        prediction, truth = prediction[box], truth[box]
    counts, hd95s, nsds, rows = [], [], [], []
    for name, classes in regions.items():
        p, t = _inside(prediction, classes), _inside(truth, classes)
        counts.append([np.count_nonzero(p & t), np.count_nonzero(p), np.count_nonzero(t)])
        if size is not None:
            pair = surfaces(p, t, size)
            hd95s.append(hausdorff(pair).value)
            if tolerance is not None:
                nsds.append(surface_dice(pair, _of(tolerance, name)).value)
            if lesion_rule is not None:
                rows.append(lesions(p, t, size, lesion_rule))
    overlap, predicted, true = np.asarray(counts, np.int64).T[:, None]
    return Cases(
        tuple(regions),
        overlap,
        predicted,
        true,
        hd95=np.asarray([hd95s]) if hd95s else None,
        nsd=np.asarray([nsds]) if nsds else None,
        lesions=(tuple(rows),) if rows else None,
    )


def measure_slices(
    prediction: Int[np.ndarray, "*shape"], truth: Int[np.ndarray, "*shape"], regions: Regions, *, axis: int = 0
) -> Cases:
    """Counts of a volume's slices along an axis, a row for each: for `per_slice`, and for batches of slices.

    Raises:
      UserError: shapes that differ, or class indices of no region.
    """
    prediction, truth = _checked(prediction, truth, regions)
    others = tuple(a for a in range(truth.ndim) if a != axis % truth.ndim)
    counts = []
    for classes in regions.values():
        p, t = _inside(prediction, classes), _inside(truth, classes)
        counts.append([np.count_nonzero(x, axis=others) for x in (p & t, p, t)])
    overlap, predicted, true = np.moveaxis(np.asarray(counts, np.int64), 0, -1)
    return Cases(tuple(regions), overlap, predicted, true)


OVERLAPS = ("dice", "iou", "precision", "recall")
SURFACES = ("hd95", "nsd")
LESIONS = ("lesion_dice", "lesion_f1")


def per_case(cases: Cases, metric: str) -> Float[np.ndarray, "n k"]:
    """A metric of each case and region; NaN where it is undefined or unknown.

    dice = 2 |P and T| / (|P| + |T|), iou = |P and T| / |P or T|, precision = |P and T| / |P|, recall = |P and T| / |T|:
    undefined where the denominator is 0, and 0 where only the numerator is. hd95 and nsd as they were measured.
    lesion_dice = sum of the true lesions' Dice / (true lesions + false findings), lesion_f1 = 2 found / (2 found +
    false + missed): undefined where there is neither a lesion nor a finding.

    Raises:
      UserError: an unknown metric, or one that was not measured.
    """
    if metric in OVERLAPS:
        values = ratio(metric, cases.overlap, cases.predicted, cases.truth)
    elif metric in SURFACES:
        values = np.asarray(_measured(cases, metric), np.float64)
    elif metric in LESIONS:
        of_one = {"lesion_dice": lambda found: found.mean_dice, "lesion_f1": lambda found: _f1(*found.detected)}[metric]
        each = [[of_one(found) for found in row] for row in _measured(cases, "lesions")]
        values = np.asarray(each, np.float64).reshape(cases.overlap.shape)
    else:
        valid = OVERLAPS + SURFACES + LESIONS
        raise UserError(f"unknown metric {metric!r}{nearest(metric, valid)}", expected=f"one of {', '.join(valid)}")
    return np.where(cases.all_known, values, np.nan)


def ratio(metric: str, overlap: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """dice, iou, precision or recall of counts; NaN where the denominator is 0."""
    over, under = terms(metric, overlap, predicted, truth)
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)


def terms(metric: str, overlap: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of dice, iou, precision or recall, as float64."""
    under = {
        "dice": predicted + truth,
        "iou": predicted + truth - overlap,
        "precision": predicted,
        "recall": truth,
    }[metric]
    return np.asarray(overlap * (2 if metric == "dice" else 1), np.float64), np.asarray(under, np.float64)


def _f1(found: int, false: int, missed: int) -> float:
    under = 2 * found + false + missed
    return 2 * found / under if under else math.nan


def _measured(cases: Cases, name: str) -> Any:
    value = getattr(cases, name)
    if value is None:
        argument = {"hd95": "spacing", "nsd": "spacing and tolerance", "lesions": "spacing and lesion_rule"}[name]
        raise UserError(f"{name} of the cases was not measured", fix=f"pass {argument} to measure")
    return value


def _of(tolerance: float | Mapping[str, float], region: str) -> float:
    if not isinstance(tolerance, Mapping):
        return tolerance
    if region not in tolerance:
        raise UserError(f"no tolerance for region {region!r}", got=", ".join(tolerance))
    return tolerance[region]


def _inside(mask: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    inside = mask == classes[0]
    for c in classes[1:]:
        inside |= mask == c
    return inside


def _checked(prediction: np.ndarray, truth: np.ndarray, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    if not regions or not all(regions.values()):
        raise UserError("no regions to judge, or one without a class", got=dict(regions))
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise UserError(f"masks differ in shape: prediction {prediction.shape}, truth {truth.shape}")
    valid = sorted({0}.union(*regions.values()))
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype.kind not in "iub":
            raise UserError(f"{name} holds no class indices", got=mask.dtype, expected="whole numbers or booleans")
        if mask.size == 0:
            continue
        low, high = int(mask.min()), int(mask.max())
        # Minimum and maximum are read fast; only what lies between needs a look at each class that no region has.
        wrong = [v for v in (low, high) if v not in valid]
        wrong = wrong or [v for v in range(low, high) if v not in valid and (mask == v).any()]
        if wrong:
            raise UserError(f"{name}: class indices of no region", got=wrong[0], expected=f"of {valid}")
    return prediction, truth
