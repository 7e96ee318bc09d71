"""Many comparisons in one study: Holm's correction of the family-wise error."""

from __future__ import annotations

from jaxtyping import Float
import numpy as np


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Corrected p of each comparison: below alpha where Holm's procedure rejects at family-wise error alpha.

    Holm, Scand. J. Statist. 6, 1979. NaN (an undefined comparison) stays NaN and is not counted in the family.
    """
    p = np.asarray(p, np.float64)
    corrected = np.full(p.shape, np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    m = len(order)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * (m - np.arange(m))), 1.0)
    return corrected


def holm_alphas(p: Float[np.ndarray, " m"], alpha: float) -> Float[np.ndarray, " m"]:
    """The level at which Holm's procedure judges each comparison, so that its interval can be given at that level.

    The smallest p is held against alpha / m, the next against alpha / (m - 1), and so on; all that are not rejected
    stand at the level of the first that was not: alpha / (m - number of rejected). NaN p: NaN.
    """
    p = np.asarray(p, np.float64)
    alphas = np.full(p.shape, np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    m = len(order)
    rejected = int((holm(p)[order] < alpha).sum())
    alphas[order] = alpha / (m - np.minimum(np.arange(m), rejected))
    return alphas
