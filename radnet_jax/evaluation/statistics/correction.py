"""Many comparisons in one study: Holm's correction of the family-wise error, Benjamini and Hochberg's of the rate."""

from __future__ import annotations

from jaxtyping import Float
import numpy as np

METHODS = ("holm", "benjamini_hochberg")


def correct(p: Float[np.ndarray, " m"], method: str = "holm") -> Float[np.ndarray, " m"]:
    """Corrected p of each comparison: below alpha where the procedure rejects at level alpha. NaN stays NaN.

    "holm" bounds the probability of any false rejection, for verdicts; "benjamini_hochberg" the expected share of false
    ones among the rejected, for screening.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    return holm(p) if method == "holm" else benjamini_hochberg(p)


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


def benjamini_hochberg(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Corrected p of each comparison: at most q where the procedure rejects at false discovery rate q.

    Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995; for independent or positively dependent tests. NaN as for
    `holm`.
    """
    p = np.asarray(p, np.float64)
    corrected = np.full(p.shape, np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")[::-1]]
    m = len(order)
    corrected[order] = np.minimum(np.minimum.accumulate(p[order] * (m / np.arange(m, 0, -1))), 1.0)
    return corrected
