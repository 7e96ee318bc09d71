"""What can be read linearly from features, and what single units follow; folds and intervals by patients."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

from jaxtyping import Bool, Float, Int
import numpy as np
from scipy import stats
from scipy.stats import rankdata

from radnet_jax.analysis.intervals import jackknife_half_width
from radnet_jax.evaluation.statistics.correction import correct

FOLDS = 5
STRENGTHS = tuple(10.0 ** np.arange(-4, 4))  # of features with variance 1, by their number


@dataclasses.dataclass(frozen=True)
class Decoded:
    """How well a property is read: R^2 on patients that the fit has not seen, and its interval."""

    r2: float
    low: float
    high: float


def decodability(
    x: Float[np.ndarray, "m d"], targets: Mapping[str, Float[np.ndarray, " m"]], groups: Int[np.ndarray, " m"]
) -> dict[str, Decoded]:
    """Returns the cross-validated R^2 of ridge regression of each property on the features.

    5 folds of whole groups; in each, the penalty is chosen on the next fold, then the others are fitted with it. R^2 is
    against the mean of the training folds: 0 for what can't be read, below 0 for a fit that misleads. The interval is
    Student's from the jackknife over groups of the held-out errors, for these fits.

    Args:
      x: features; standardised by the training folds' mean and deviation.
      targets: by name; NaN where unknown.
      groups: of patients; at least 5 of them.
    """
    fold, x = _folds(groups), np.asarray(x, np.float64)
    together: dict[bytes, list[str]] = {}  # properties that are known of the same images share the decompositions
    for name, y in targets.items():
        together.setdefault(np.isfinite(y).tobytes(), []).append(name)
    found: dict[str, Decoded] = {}
    for names in together.values():
        known = np.isfinite(targets[names[0]])
        errors, around = _held_out(x[known], np.stack([targets[n][known] for n in names], axis=1), fold[known])
        found |= {n: _r2(errors[:, i], around[:, i], groups[known]) for i, n in enumerate(names)}
    return {name: found[name] for name in targets}


def unit_correlations(
    x: Float[np.ndarray, "m d"], targets: Mapping[str, Float[np.ndarray, " m"]], patients: np.ndarray
) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of every unit with every property, multiplicity handled.

    p is that of Student's t with as many images as there are patients of whom the property is known: images of one
    patient are not independent, and counting them as such would make everything significant. Benjamini and Hochberg's
    procedure then runs over all units x properties.

    Returns:
      For each property: "strongest", the correlation of the unit that follows it most; "unit", its number; "share", of
      the units that follow it at a false discovery rate of 5 %.
    """
    names = list(targets)
    r = np.full((x.shape[1], len(names)), np.nan)
    free = np.ones(len(names))
    for j, name in enumerate(names):
        known = np.isfinite(targets[name])
        r[:, j] = correlations(rankdata(x[known], axis=0), rankdata(targets[name][known]))
        free[j] = max(len(np.unique(patients[known])) - 2, 1)
    t = np.abs(r) * np.sqrt(free / np.maximum(1 - r**2, 1e-12))
    corrected = correct((2 * stats.t.sf(t, free)).ravel(), "benjamini_hochberg").reshape(r.shape)
    out = {}
    for j, name in enumerate(names):
        defined = np.isfinite(r[:, j])
        if not defined.any():
            out[name] = {"strongest": math.nan, "unit": math.nan, "share": math.nan}
            continue
        unit = int(np.nanargmax(np.abs(r[:, j])))
        share = float(np.mean(corrected[defined, j] < 0.05))
        out[name] = {"strongest": float(r[unit, j]), "unit": unit, "share": share}
    return out


def _folds(groups: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    return np.unique(groups, return_inverse=True)[1] % FOLDS


def _held_out(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m t"], fold: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, "m t"], Float[np.ndarray, "m t"]]:
    """Squared errors of the fit and of the training folds' mean, for each image by fits that have not seen it."""
    errors, around = np.full(y.shape, np.nan), np.full(y.shape, np.nan)
    for k in range(FOLDS):
        test, choosing = fold == k, fold == (k + 1) % FOLDS
        fitting = ~test & ~choosing
        if not test.any() or not choosing.any() or fitting.sum() < 2:
            continue
        tried = _ridge(x, y, fitting, choosing)
        best = ((tried - y[choosing]) ** 2).mean(axis=1).argmin(axis=0)
        fitted = _ridge(x, y, ~test, test)[best, :, np.arange(y.shape[1])].T
        errors[test] = (fitted - y[test]) ** 2
        around[test] = (y[~test].mean(axis=0) - y[test]) ** 2
    return errors, around


def _ridge(
    x: Float[np.ndarray, "m d"],
    y: Float[np.ndarray, "m t"],
    fitting: Bool[np.ndarray, " m"],
    wanted: Bool[np.ndarray, " m"],
) -> Float[np.ndarray, "s w t"]:
    """Predictions for each of STRENGTHS, by one eigendecomposition of the smaller of the two forms."""
    centre = y[fitting].mean(axis=0)
    mean, scale = x[fitting].mean(axis=0), x[fitting].std(axis=0)
    kept = scale > 1e-7 * np.maximum(np.abs(mean), 1e-30)
    if not kept.any():
        return np.broadcast_to(centre, (len(STRENGTHS), int(wanted.sum()), y.shape[1]))
    z = (x[:, kept] - mean[kept]) / scale[kept] / math.sqrt(kept.sum())
    a, b, n = z[fitting], z[wanted], int(fitting.sum())
    dual = n <= a.shape[1]
    values, vectors = np.linalg.eigh((a @ a.T if dual else a.T @ a) / n)
    right = vectors.T @ (y[fitting] - centre if dual else a.T @ (y[fitting] - centre))
    left = (b @ a.T if dual else b) @ vectors
    return np.stack([centre + left @ (right / (np.maximum(values, 0) + s)[:, None]) / n for s in STRENGTHS])


def _r2(errors: Float[np.ndarray, " m"], around: Float[np.ndarray, " m"], groups: Int[np.ndarray, " m"]) -> Decoded:
    known = np.isfinite(errors)
    if not known.any() or not around[known].sum() > 0:
        return Decoded(math.nan, math.nan, math.nan)
    _, index = np.unique(groups[known], return_inverse=True)
    lost, spread = (np.bincount(index, weights=v[known]) for v in (errors, around))
    r2 = float(1 - lost.sum() / spread.sum())
    left = spread.sum() - spread
    if len(lost) < 2 or not (left > 0).all():
        return Decoded(r2, math.nan, math.nan)
    half = jackknife_half_width(1 - (lost.sum() - lost) / left)
    return Decoded(r2, r2 - half, min(r2 + half, 1.0))


def correlations(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, " m"]) -> Float[np.ndarray, " d"]:
    """Returns Pearson's correlation of each column with y; NaN of a constant one."""
    x, y = x - x.mean(axis=0), y - y.mean()
    norms = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
    return np.divide(x.T @ y, norms, out=np.full(x.shape[1], np.nan), where=norms > 0)
