"""How far apart features hold two domains: distances between two sets of features, not of the same images."""

from __future__ import annotations

from collections.abc import Mapping
import itertools

from jaxtyping import Float
import numpy as np

from radnet_jax.analysis.similarity import centred, median_bandwidth, rbf_gram, squared_distances
from radnet_jax.errors import UserError


def mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Squared maximum mean discrepancy, unbiased (Gretton et al., JMLR 13, 2012, equation 3): 0 on average for one
    distribution, and then sometimes negative; at most about 2.

    The kernel is Gaussian, its bandwidth the median squared distance between any two of all images.

    Raises:
      UserError: fewer than 2 images on a side.
    """
    n, m = len(x), len(y)
    _check(n, m)
    together = np.concatenate([x, y])
    bandwidth = median_bandwidth(squared_distances(together))
    if not bandwidth > 0:
        return float("nan")
    k = rbf_gram(together, bandwidth=bandwidth)
    within = [(part.sum() - np.trace(part)) / (len(part) * (len(part) - 1)) for part in (k[:n, :n], k[n:, n:])]
    return float(sum(within) - 2 * k[:n, n:].mean())


def frechet(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Frechet distance of the normal distributions with the sets' means and covariances, by their mean variance.

    Dowson and Landau (1982): |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), here by tr(S_x + S_y) / 2, so that it
    does not depend on the scale of the features. Of few images it is too large: compare sets of equal numbers only.

    Raises:
      UserError: fewer than 2 images on a side.
    """
    _check(len(x), len(y))
    shift = np.asarray(x, np.float64).mean(axis=0) - np.asarray(y, np.float64).mean(axis=0)
    a, b = (centred(part) / (len(part) - 1) ** 0.5 for part in (x, y))
    size = float(np.sum(a**2) + np.sum(b**2))
    if not size > 0:
        return float("nan")
    # The square roots of the eigenvalues of S_x S_y = a'a b'b are the singular values of a b'.
    root = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return (float(shift @ shift) + size - 2 * root) / (size / 2)


def distances(parts: Mapping[str, Float[np.ndarray, "_ d"]]) -> dict[str, dict[str, float]]:
    """Returns both distances of each pair of domains, cut to equal numbers of images."""
    out = {}
    for (one, x), (other, y) in itertools.combinations(parts.items(), 2):
        n = min(len(x), len(y))
        x, y = (np.asarray(part[np.linspace(0, len(part) - 1, n).astype(int)], np.float64) for part in (x, y))
        out[f"{one} and {other}"] = {"mmd": mmd(x, y), "frechet": frechet(x, y)}
    return out


def _check(n: int, m: int) -> None:
    if min(n, m) < 2:
        raise UserError("fewer images of a domain than needed", got=min(n, m), expected="at least 2")
