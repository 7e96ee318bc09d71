"""How sure a similarity is, over the images it was computed from: a jackknife over groups of patients."""

from __future__ import annotations

import dataclasses
import math

from jaxtyping import Float, Int
import numpy as np
from scipy import stats

from radnet_jax.analysis.similarity import Gram, ratio

GROUPS = 20  # patients are left out in so many groups
LEAST_GROUPS = 5
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and its interval; `low` and `high` are NaN where there is a reason."""

    value: float
    low: float
    high: float
    groups: int
    reason: str = ""


def patient_groups(patients: np.ndarray, *, seed: int = 0, most: int = GROUPS) -> Int[np.ndarray, " n"]:
    """Returns a group for each image: patients dealt out at random to at most `most` groups of nearly equal numbers."""
    names, index = np.unique(patients, return_inverse=True)
    dealt = np.arange(len(names)) % min(most, len(names))
    return np.random.default_rng(seed).permutation(dealt)[index]


def cka_interval(k: Gram, l: Gram, groups: Int[np.ndarray, " n"], *, level: float = 0.95) -> Interval:  # noqa: E741
    """Debiased CKA with Student's interval from the delete-a-group jackknife.

    Shao and Tu (1995, section 2.3); Student's t with one degree of freedom less than groups. A bootstrap would draw
    images twice, and an image is similar to itself on both sides: HSIC_1, which leaves such pairs out, would be biased.
    High ends are cut at 1, which debiased CKA passes only by chance.

    Args:
      k: Gram matrix of one side, as `similarity.linear_gram` or `rbf_gram` gives it.
      l: of the other side.
      groups: of each image; images of one patient are in one group.
      level: coverage.
    """
    names = np.unique(groups)
    onehot = (groups[:, None] == names).astype(np.float64)
    whole = float(_left_out(k, l, np.zeros((len(k), 1)))[0])
    count = len(names)
    if math.isnan(whole) or count < LEAST_GROUPS:
        reason = "constant" if math.isnan(whole) else f"fewer than {LEAST_GROUPS} patients"
        return Interval(whole, math.nan, math.nan, count, reason)
    without = _left_out(k, l, onehot)
    if np.isnan(without).any():
        return Interval(whole, math.nan, math.nan, count, "constant without a group")
    half = jackknife_half_width(without, level=level)
    return Interval(whole, whole - half, min(whole + half, max(1.0, whole)), count)


def jackknife_half_width(without: Float[np.ndarray, " g"], *, level: float = 0.95) -> float:
    """Half the width of Student's interval of a value, from what it is without each of g groups in turn."""
    count = len(without)
    error = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
    return float(stats.t.ppf((1 + level) / 2, count - 1)) * error


def _left_out(k: Gram, l: Gram, out: Float[np.ndarray, "n g"]) -> Float[np.ndarray, " g"]:  # noqa: E741
    """Debiased CKA without each group in turn, all from one pass over the Gram matrices."""
    k, l = k.copy(), l.copy()  # noqa: E741
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    measured = [_hsic_left_out(a, b, out) for a, b in ((k, l), (k, k), (l, l))]
    floors = [_TINY * float(np.sum(m * m)) for m in (k, l)]
    own = [np.where(m > floor, m, 0.0) for m, floor in zip(measured[1:], floors)]
    return np.array([ratio(*map(float, values)) for values in zip(measured[0], *own)])


def _hsic_left_out(k: Gram, l: Gram, out: Float[np.ndarray, "n g"]) -> Float[np.ndarray, " g"]:  # noqa: E741
    """HSIC_1 times n (n - 3) of the images that are not in each group, of matrices without their diagonals."""
    kept = 1 - out
    n = kept.sum(axis=0)
    product = k * l
    among = np.einsum("ng,ng->g", out, product @ out)
    trace = product.sum() - 2 * product.sum(axis=1) @ out + among
    rows_k, rows_l = (kept * (m.sum(axis=1)[:, None] - m @ out) for m in (k, l))
    both = rows_k.sum(axis=0) * rows_l.sum(axis=0) / ((n - 1) * (n - 2))
    return trace + both - 2 / (n - 2) * np.sum(rows_k * rows_l, axis=0)
