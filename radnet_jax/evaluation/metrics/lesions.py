"""Lesions of a mask, one by one: which were found, how well each was outlined, and what was found that is none."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

from jaxtyping import Bool, Int
import numpy as np
from scipy import ndimage

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics.surface import Spacing, bounding_box, check_spacing, hausdorff, surfaces


@dataclasses.dataclass(frozen=True)
class LesionRule:
    """What counts as one lesion, and which lesions count.

    Attributes:
      dilation: steps by which true lesions are widened (to neighbours across faces and edges): those that then touch
        are one lesion, and a predicted lesion that touches a widened one belongs to it. 0: as they are.
      min_volume: true lesions up to this volume, in the cubed unit of the spacing, are not scored.
    """

    dilation: int = 0
    min_volume: float = 0.0

    def __post_init__(self) -> None:
        if self.dilation < 0 or not self.min_volume >= 0:
            raise UserError("a lesion rule's numbers are 0 or more", got=f"{self.dilation} and {self.min_volume}")


ANY_OVERLAP = LesionRule()
"""Components that share a voxel belong together; every lesion counts."""

BRATS_2023 = LesionRule(dilation=3, min_volume=50.0)
"""Adult glioma (also the African and the paediatric task) of BraTS 2023; voxels of 1 mm."""

BRATS_2023_MENINGIOMA = LesionRule(dilation=1, min_volume=50.0)
BRATS_2023_METASTASES = LesionRule(dilation=1, min_volume=2.0)


@dataclasses.dataclass(frozen=True)
class Lesions:
    """The lesions of one case and region. The tuples have one entry for each true lesion that counts.

    Attributes:
      volume: in the cubed unit of the spacing.
      dice: Dice of the lesion and all predicted lesions that belong to it; 0 where it was missed.
      hd95: HD95 of the same pair; NaN where it was missed, or where the spacing is not known.
      found: whether a predicted lesion belongs to it.
      n_false: predicted lesions that belong to no true one, whether or not that one counts.
    """

    volume: tuple[float, ...]
    dice: tuple[float, ...]
    hd95: tuple[float, ...]
    found: tuple[bool, ...]
    n_false: int

    @property
    def n_all(self) -> int:
        """True lesions and false findings: what lesion-wise means are divided by."""
        return len(self.dice) + self.n_false

    @property
    def mean_dice(self) -> float:
        """sum of Dice / (true lesions + false findings); NaN where there are neither."""
        return sum(self.dice) / self.n_all if self.n_all else math.nan

    def mean_hd95(self, penalty: float) -> float:
        """Mean HD95, where each missed lesion and each false finding counts `penalty`; NaN where there are neither, or
        where a lesion that was found has no distance.
        """
        each = [d if found else penalty for d, found in zip(self.hd95, self.found, strict=True)]
        return (sum(each) + self.n_false * penalty) / self.n_all if self.n_all else math.nan

    @property
    def detected(self) -> tuple[int, int, int]:
        """(found, false, missed): the counts of F1 = 2 found / (2 found + false + missed)."""
        return sum(self.found), self.n_false, len(self.found) - sum(self.found)


def lesions(
    prediction: Bool[np.ndarray, "*shape"],
    truth: Bool[np.ndarray, "*shape"],
    spacing: Spacing,
    rule: LesionRule = ANY_OVERLAP,
) -> Lesions:
    """Matches the predicted lesions of a case with the true ones.

    A lesion is a component of voxels that touch by face, edge or corner. One predicted lesion can belong to several
    true ones and then counts in each of their Dice; several can belong to one, and their union is judged. The rules are
    those of BraTS 2023 (github.com/rachitsaluja/BraTS-2023-Metrics), for any dilation and volume.

    Args:
      prediction: True inside.
      truth: True inside, of the same shape.
      spacing: size of a voxel along each axis.
      rule: what one lesion is.

    Raises:
      UserError: shapes that differ, or a spacing that does not fit them.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    size = check_spacing(spacing, prediction.shape, truth.shape)
    # With room for widened lesions, which may meet outside the box of the lesions themselves.
    box = bounding_box(prediction | truth, margin=rule.dilation)
    if box is None:
        return Lesions((), (), (), (), 0)
    prediction, truth = prediction[box], truth[box]
    predicted_ids, n_predicted = _components(prediction)
    true_ids = np.where(truth, _components(_widen(truth, rule.dilation))[0], 0)

    sizes, places = np.bincount(predicted_ids.ravel()), ndimage.find_objects(predicted_ids)
    belong: set[int] = set()
    rows: list[tuple[float, float, float, bool]] = []
    for number, place in enumerate(ndimage.find_objects(true_ids), 1):
        around = tuple(slice(max(0, s.start - rule.dilation), s.stop + rule.dilation) for s in place)
        lesion = true_ids[around] == number
        own = np.unique(predicted_ids[around][_widen(lesion, rule.dilation)])
        own = own[own > 0]
        belong.update(own.tolist())
        n = np.count_nonzero(lesion)
        volume = float(n * np.prod(size))
        if volume <= rule.min_volume:
            continue
        if len(own) == 0:
            rows.append((volume, 0.0, math.nan, False))
            continue
        overlap = np.count_nonzero(np.isin(predicted_ids[around][lesion], own))
        dice = 2 * overlap / (n + int(sizes[own].sum()))
        whole = _union([place, *(places[i - 1] for i in own)])
        pair = surfaces(np.isin(predicted_ids[whole], own), true_ids[whole] == number, size)
        rows.append((volume, dice, hausdorff(pair).value, True))
    volumes, dices, distances, found = zip(*rows) if rows else ((), (), (), ())
    return Lesions(volumes, dices, distances, found, n_false=n_predicted - len(belong))


def _widen(mask: Bool[np.ndarray, "*shape"], steps: int) -> Bool[np.ndarray, "*shape"]:
    if steps == 0:  # which SciPy takes for "until nothing changes"
        return mask
    structure = ndimage.generate_binary_structure(mask.ndim, min(2, mask.ndim))
    widened: np.ndarray = ndimage.binary_dilation(mask, structure, iterations=steps)
    return widened


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes))


def _components(mask: Bool[np.ndarray, "*shape"]) -> tuple[Int[np.ndarray, "*shape"], int]:
    """Numbers from 1 of what touches by face, edge or corner, 0 outside; and how many there are."""
    ids, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return ids, int(n)
