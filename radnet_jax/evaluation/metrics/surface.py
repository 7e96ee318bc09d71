"""Distances between the surfaces of two masks: HD95 and the normalised surface Dice.

A surface is a mask's border voxels: those with a neighbour across a face that is not in the mask; what lies outside the
image is not. Distances go from centre to centre, in the unit of `spacing`. Nearest voxels are looked up in a k-d tree
of the border, which is much smaller than the volume that a distance transform has to fill.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool, Float
import numpy as np
from scipy.spatial import KDTree

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics import Metric, undefined

Spacing = Sequence[float] | Float[np.ndarray, " d"]

_ROUNDING = 1e-9  # relative: a distance that equals the tolerance must not exceed it by its last digit


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """Distances between two surfaces; both arrays are empty where a mask is.

    Attributes:
      to_truth: of each border voxel of the prediction, to the truth's nearest.
      to_prediction: of each border voxel of the truth, to the prediction's nearest.
      reason: "both_empty", "empty_truth" or "empty_prediction", else "".
    """

    to_truth: Float[np.ndarray, " p"]
    to_prediction: Float[np.ndarray, " t"]
    reason: str = ""


def surfaces(prediction: Bool[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"], spacing: Spacing) -> Surfaces:
    """Measures the distances between the surfaces of two masks in two, three or any number of dimensions.

    Args:
      prediction: True inside.
      truth: True inside, of the same shape.
      spacing: size of a voxel along each axis, say in mm.

    Raises:
      UserError: shapes that differ, or a spacing that does not fit them.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    size = check_spacing(spacing, prediction.shape, truth.shape)
    nothing = np.zeros(0)
    box = bounding_box(prediction | truth)
    if box is None:
        return Surfaces(nothing, nothing, "both_empty")
    # The border of what is cut out is that of the whole: outside the box there is nothing of either mask.
    prediction, truth = prediction[box], truth[box]
    if not (prediction.any() and truth.any()):
        return Surfaces(nothing, nothing, "empty_prediction" if truth.any() else "empty_truth")
    p, t = (np.argwhere(border(mask)) * size for mask in (prediction, truth))
    return Surfaces(_nearest(p, t), _nearest(t, p))


def hausdorff(found: Surfaces, percentile: float = 95.0) -> Metric:
    """Percentile Hausdorff distance, HD95 by default: the larger of the two directed percentiles, >= 0.

    Huttenlocher et al., IEEE PAMI 15, 1993, with the percentile interpolated linearly. The larger of two is
    what MONAI and Metrics Reloaded take; the percentile of both directions put together (MedPy) is another number.
    Undefined where a mask is empty.
    """
    if found.reason:
        return undefined(found.reason)
    return Metric(float(max(np.percentile(d, percentile) for d in (found.to_truth, found.to_prediction))))


def surface_dice(found: Surfaces, tolerance: float) -> Metric:
    """Normalised surface Dice: the share of both surfaces that lies within `tolerance` of the other, in [0, 1].

    Nikolov et al., J. Med. Internet Res. 23, 2021, where border voxels stand for area, as in MONAI's default.
    0 where one mask is empty: nothing of the other's surface is near it. Undefined where both are.

    Raises:
      UserError: a tolerance that is negative or no number.
    """
    if not 0 <= tolerance < np.inf:
        raise UserError("tolerance of the surface Dice out of range", got=tolerance, expected="0 or more")
    if found.reason:
        return undefined("both_empty") if found.reason == "both_empty" else Metric(0.0)
    near = sum(np.count_nonzero(d <= tolerance * (1 + _ROUNDING)) for d in (found.to_truth, found.to_prediction))
    return Metric(near / (len(found.to_truth) + len(found.to_prediction)))


def border(mask: Bool[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """The voxels of a mask that have a neighbour across a face outside it or outside the array."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        moved, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= moved[:-1]
        kept[:-1] &= moved[1:]
        kept[0] = kept[-1] = False
    return mask & ~inner


def bounding_box(mask: Bool[np.ndarray, "*shape"], margin: int = 0) -> tuple[slice, ...] | None:
    """The smallest box that holds a mask, wider by `margin` where the array goes on; None for an empty mask."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # Axes that are done are cut already, so that each pass reads less.
        cut = mask[tuple(box)]
        inside = np.flatnonzero(cut.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if len(inside) == 0:
            return None
        box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + 1 + margin))
    return tuple(box)


def check_spacing(spacing: Spacing, *shapes: tuple[int, ...]) -> Float[np.ndarray, " d"]:
    """Refuses shapes that differ and a spacing that is not one positive number for each axis; returns the spacing."""
    if len(set(shapes)) > 1:
        raise UserError(f"masks differ in shape: prediction {shapes[0]}, truth {shapes[1]}")
    size = np.asarray(spacing, np.float64)
    if size.shape != (len(shapes[0]),) or not (np.isfinite(size) & (size > 0)).all():
        raise UserError(
            "spacing does not fit the masks",
            got=spacing,
            expected=f"{len(shapes[0])} positive numbers, one for each axis",
        )
    return size


def _nearest(points: Float[np.ndarray, "n d"], of: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    # A tree that is asked once: building it balanced costs more than it saves.
    tree = KDTree(of, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances: np.ndarray = tree.query(points)[0]
    return distances
