"""How alike two representations of the same images are. Pure functions of [n d] matrices in memory, in float64.

Rows are images, the same ones in the same order on both sides; columns are features, any number on either side. All are
unchanged by a shift of the features and by their common scale; docs/analysis.md says what else each does not see. An
undefined value (a representation that is the same for all images) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jaxtyping import Bool, Float, Int
import numpy as np
from scipy.stats import spearmanr

from radnet_jax.errors import UserError

GRAM_LIMIT = 8192  # images of a Gram matrix in memory: 512 MiB of float64 each
KERNELS = ("linear", "rbf")
_LEAST = 4  # images that the unbiased HSIC needs
_ROOT = 1e-7  # singular values by the largest, below which those from a Gram matrix are rounding
_TINY = 1e-12  # of the mean square: variance below it is rounding

Matrix = Float[np.ndarray, "n d"]
Gram = Float[np.ndarray, "n n"]


def linear_gram(x: Matrix) -> Gram:
    """Returns the inner products of the centred rows."""
    x = centred(x)
    return x @ x.T


def squared_distances(x: Matrix) -> Gram:
    """Returns the squared Euclidean distance of each pair of rows; 0 on the diagonal, and nowhere below 0."""
    gram = linear_gram(x)
    square = np.diag(gram)
    out = np.maximum(square[:, None] + square[None] - 2 * gram, 0.0)
    np.fill_diagonal(out, 0.0)
    return out


def median_bandwidth(distances: Gram) -> float:
    """Returns the median of the squared distances that are not 0; of two in the middle, the smaller one.

    0 where all rows are equal.
    """
    nonzero = distances[distances > 0]
    return float(np.partition(nonzero, (len(nonzero) - 1) // 2)[(len(nonzero) - 1) // 2]) if len(nonzero) else 0.0


def rbf_gram(x: Matrix, *, bandwidth: float | None = None) -> Gram:
    """Returns exp(-distance^2 / (2 bandwidth)) of each pair of rows.

    Args:
      x: the rows.
      bandwidth: squared (the sigma^2 of the Gaussian); by default the median of the squared distances that are not 0.
    """
    distances = squared_distances(x)
    bandwidth = median_bandwidth(distances) if bandwidth is None else bandwidth
    return np.exp(distances / (-2 * bandwidth)) if bandwidth > 0 else np.ones_like(distances)


def hsic(k: Gram, l: Gram) -> float:  # noqa: E741 (the paper's name)
    """Biased Hilbert-Schmidt independence criterion times (n - 1)^2 (Gretton et al. 2005): tr(K H L H)."""
    return float(np.sum(_doubly_centred(k) * _doubly_centred(l)))


def unbiased_hsic(k: Gram, l: Gram) -> float:  # noqa: E741
    """HSIC_1 of Song et al. (JMLR 13, 2012, equation 5) times n (n - 3): 0 on average for independent images.

    Raises:
      UserError: fewer than 4 images.
    """
    n = len(k)
    _check_count(n, _LEAST)
    k, l = (_without_diagonal(m) for m in (k, l))  # noqa: E741
    rows_k, rows_l = k.sum(axis=1), l.sum(axis=1)
    both = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return float(np.sum(k * l) + both - 2 / (n - 2) * (rows_k @ rows_l))


def cka(k: Gram, l: Gram, *, debiased: bool = True) -> float:  # noqa: E741
    """Centred kernel alignment of two Gram matrices (Kornblith et al. 2019, equation 4).

    Args:
      k: of one representation.
      l: of the other.
      debiased: with HSIC_1 in all three places. Without it, CKA rises with the number of features by images: two
        independent representations of as many features as images have a linear CKA of about a half.
    """
    _check_same(k, l)
    measure = unbiased_hsic if debiased else hsic
    both, *own = measure(k, l), measure(k, k), measure(l, l)
    floors = (_TINY * float(np.sum(m * m)) for m in (k, l))
    return ratio(both, *(value if value > floor else 0.0 for value, floor in zip(own, floors)))


def ratio(both: float, one: float, other: float) -> float:
    """Returns both / sqrt(one x other); NaN where either is not above 0."""
    return both / (one * other) ** 0.5 if one > 0 and other > 0 else float("nan")


def linear_cka(x: Matrix, y: Matrix, *, debiased: bool = True) -> float:
    """Linear CKA in memory; unchanged by rotations of the features. `linear_cka.LinearCka` needs no Gram matrix."""
    return _kernel_cka(x, y, linear_gram, debiased)


def rbf_cka(x: Matrix, y: Matrix, *, debiased: bool = True) -> float:
    """CKA of Gaussian kernels with the median bandwidth of each side, with whole Gram matrices.

    Raises:
      UserError: more than GRAM_LIMIT images; `minibatch_cka` takes any number.
    """
    return _kernel_cka(x, y, rbf_gram, debiased)


def minibatch_cka(
    batches: Iterable[tuple[Matrix, Matrix]],
    *,
    kernel: str = "rbf",
    bandwidths: tuple[float, float] | None = None,
) -> float:
    """The mini-batch estimator of CKA of Nguyen et al. (2021, equation 4): HSIC_1 averaged over batches, then divided.

    A batch weighs as many as it has images; the paper's are equal. Each HSIC_1 is unbiased whatever the batch; their
    ratio converges to CKA with the number of images. `minibatch.MinibatchCka` is the same on devices.

    Args:
      batches: (x, y) of the same at least 4 images each.
      kernel: "linear", or "rbf" with `bandwidths`.
      bandwidths: squared, of x and y, the same for all batches: a bandwidth of each batch's own would make another
        kernel of each.

    Raises:
      UserError: no batch, one of fewer than 4 images, an unknown kernel, a Gaussian one without bandwidths.
    """
    if kernel not in KERNELS:
        raise UserError("unknown kernel", got=repr(kernel), expected=" or ".join(KERNELS))
    if kernel == "rbf" and (bandwidths is None or min(bandwidths) <= 0):
        raise UserError("bandwidths of an rbf kernel", got=bandwidths, expected="two numbers above 0")
    sums, count = np.zeros(3), 0
    for x, y in batches:
        _check_same(x, y)
        if kernel == "rbf":
            assert bandwidths is not None
            k, l = rbf_gram(x, bandwidth=bandwidths[0]), rbf_gram(y, bandwidth=bandwidths[1])  # noqa: E741
        else:
            k, l = linear_gram(x), linear_gram(y)  # noqa: E741
        sums += np.array([unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]) / (len(k) - 3)
        count += 1
    _check_count(count, 1, "batches")
    return ratio(*sums)


def canonical_correlations(x: Matrix, y: Matrix) -> Float[np.ndarray, " r"]:
    """The canonical correlations, falling; r is the smaller rank (Hotelling 1936).

    Raises:
      UserError: not more images than features on both sides: correlations are then 1 whatever the images.
    """
    return _cca(x, y)[0]


def svcca(x: Matrix, y: Matrix, *, share: float = 0.99) -> float:
    """The mean canonical correlation of the directions that hold `share` of the variance (Raghu et al. 2017)."""
    _check_same(x, y)
    return _mean(_cca(_leading(x, share), _leading(y, share))[0])


def pwcca(x: Matrix, y: Matrix, *, share: float = 1.0) -> float:
    """Projection-weighted canonical correlation (Morcos et al. 2018, section 2.2). Not symmetric: x gives the weights.

    Args:
      x: each of its canonical variates is weighed by the sum over x's features of their absolute inner products.
      y: the other side.
      share: below 1, both are first reduced to the directions that hold this share of their variance; the paper does
        not, which needs more images than features.
    """
    _check_same(x, y)
    if share < 1:
        x, y = _leading(x, share), _leading(y, share)
    correlations, variates = _cca(x, y)
    weights = np.abs(variates.T @ centred(x)).sum(axis=1)
    return float(weights @ correlations / weights.sum()) if len(correlations) and weights.sum() > 0 else float("nan")


def procrustes(x: Matrix, y: Matrix) -> float:
    """Similarity after the best rotation and scale: the nuclear norm of X'Y by the norms of X and Y, in [0, 1].

    2 - 2 of it is the squared Procrustes distance of the normalised representations (Williams et al. 2021).
    """
    _check_same(x, y)
    x, y = centred(x), centred(y)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not norms:
        return float("nan")
    if min(x.shape[1], y.shape[1]) > len(x):  # the same singular values from the smaller matrices
        x, y = _rows_in_their_span(x), _rows_in_their_span(y)
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum() / norms)


def rsa(x: Matrix, y: Matrix) -> float:
    """Representational similarity analysis (Kriegeskorte et al. 2008): Spearman's rank correlation, over pairs of
    images, of the dissimilarities 1 - Pearson's r of the two images' features.

    Features are centred over images first, so that a common offset does not make all images alike.
    """
    _check_same(x, y)
    _check_count(len(x), 3)
    upper = np.triu_indices(len(x), 1)
    a, b = (_row_correlations(m)[upper] for m in (x, y))
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def neighbour_overlap(x: Matrix, y: Matrix, *, k: int = 10) -> float:
    """Mutual k-nearest-neighbour overlap: the mean share of an image's k nearest (by cosine) that both sides name.

    Huh et al. (2024, section 2.2). Chance is k / (n - 1).

    Raises:
      UserError: not more than k + 1 images: all are then neighbours.
    """
    _check_same(x, y)
    _check_count(len(x), k + 2)
    near = [_neighbours(m, k) for m in (x, y)]
    return float((near[0] & near[1]).sum(axis=1).mean() / k)


def effective_rank(x: Matrix) -> float:
    """exp of the entropy of the normalised singular values of the centred features (Roy and Vetterli 2007)."""
    _, values = _svd(x)
    if not values.sum() > 0:
        return float("nan")
    p = values / values.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def spectrum(x: Matrix) -> Float[np.ndarray, " r"]:
    """Returns the share of the variance that each principal direction holds, largest first; empty of constant ones."""
    values = _svd(x)[1] ** 2
    return values / values.sum() if len(values) else values


def directions(x: Matrix, *, share: float = 0.9) -> int:
    """How many of the directions of largest variance hold `share` of it; 0 of constant features."""
    values = _svd(x)[1] ** 2
    return int(np.searchsorted(np.cumsum(values), share * values.sum() * (1 - 1e-12))) + 1 if len(values) else 0


def uniformity(x: Matrix) -> float:
    """log of the mean over pairs of exp(-2 distance^2) of unit features (Wang and Isola 2020, equation 2).

    0 where all images have one direction, lower the more evenly they fill the sphere, to about -4.
    """
    _check_count(len(x), 2)
    near = _unit_rows(np.asarray(x, np.float64))
    distances = squared_distances(near)[np.triu_indices(len(x), 1)]
    return float(np.log(np.mean(np.exp(-2 * distances))))


def alignment(x: Matrix, groups: Int[np.ndarray, " n"]) -> float:
    """The mean squared distance of unit features over pairs of images of one group (Wang and Isola 2020, equation 1).

    Groups here are patients, not views of one image. NaN where no group has two images.
    """
    distances = squared_distances(_unit_rows(np.asarray(x, np.float64)))
    pairs = np.triu(np.asarray(groups)[:, None] == np.asarray(groups), 1)
    return float(distances[pairs].mean()) if pairs.any() else float("nan")


def centred(x: Matrix) -> Matrix:
    """Returns the features less their mean over images, float64; exactly 0 where only rounding is left."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"a representation is [images features], not {x.shape}")
    mean = x.mean(axis=0)
    out = x - mean
    out[:, np.mean(out**2, axis=0) <= _TINY * mean**2] = 0.0
    return out


def _kernel_cka(x: Matrix, y: Matrix, gram: Callable[[Matrix], Gram], debiased: bool) -> float:
    _check_same(x, y)
    if len(x) > GRAM_LIMIT:
        raise UserError(
            "too many images for a Gram matrix in memory",
            got=len(x),
            expected=f"at most {GRAM_LIMIT}",
            fix="stream linear CKA, or take the mini-batch estimator",
        )
    return cka(gram(x), gram(y), debiased=debiased)


def _doubly_centred(k: Gram) -> Gram:
    return k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean()


def _without_diagonal(k: Gram) -> Gram:
    out = np.array(k, np.float64)
    np.fill_diagonal(out, 0.0)
    return out


def _svd(x: Matrix) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, " r"]]:
    """Left singular vectors and singular values of the centred features, as many as the rank."""
    x = centred(x)
    if x.shape[1] > len(x):  # ten times as fast; what is smaller than the root of float64's precision is lost
        values, vectors = np.linalg.eigh(x @ x.T)
        s = np.sqrt(np.maximum(values, 0.0))
        kept = np.flatnonzero(s > _ROOT * s.max(initial=0.0))[::-1]
        return vectors[:, kept], s[kept]
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = s > s.max(initial=0.0) * max(np.shape(x)) * np.finfo(np.float64).eps
    return u[:, kept], s[kept]


def _leading(x: Matrix, share: float) -> Matrix:
    if not 0 < share <= 1:
        raise UserError("share of the variance", got=share, expected="more than 0, at most 1")
    u, s = _svd(x)
    held = np.cumsum(s**2) / max(np.sum(s**2), np.finfo(np.float64).tiny)
    count = int(np.searchsorted(held, share * (1 - 1e-12))) + 1
    return u[:, :count] * s[:count]


def _rows_in_their_span(x: Matrix) -> Matrix:
    u, s = _svd(x)
    return u * s


def _cca(x: Matrix, y: Matrix) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "n r"]]:
    """Canonical correlations and the canonical variates of x, of norm 1."""
    _check_same(x, y)
    most = max(np.shape(x)[1], np.shape(y)[1])
    if len(x) <= most:
        raise UserError(
            "canonical correlations of fewer images than needed",
            got=f"{len(x)} images, {most} features",
            expected="more images than features",
            fix="give more images, or a smaller share of the variance",
        )
    (u, _), (v, _) = _svd(x), _svd(y)
    left, correlations, _ = np.linalg.svd(u.T @ v, full_matrices=False)
    return np.clip(correlations, 0.0, 1.0), u @ left


def _mean(values: Float[np.ndarray, " r"]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _unit_rows(x: Matrix) -> Matrix:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.full_like(x, np.nan), where=norms > 0)


def _row_correlations(x: Matrix) -> Gram:
    x = centred(x)
    x = _unit_rows(x - x.mean(axis=1, keepdims=True))
    return 1 - x @ x.T


def _neighbours(x: Matrix, k: int) -> Bool[np.ndarray, "n n"]:
    unit = _unit_rows(centred(x))
    near = np.nan_to_num(unit @ unit.T, nan=-1.0)
    np.fill_diagonal(near, -np.inf)
    chosen: Int[np.ndarray, "n k"] = np.argsort(-near, axis=1, kind="stable")[:, :k]
    out = np.zeros(near.shape, bool)
    np.put_along_axis(out, chosen, True, axis=1)
    return out


def _check_same(x: Matrix, y: Matrix) -> None:
    if len(x) != len(y):
        raise UserError("representations of different images", got=f"{len(x)} and {len(y)} rows", expected="the same")


def _check_count(n: int, least: int, what: str = "images") -> None:
    if n < least:
        raise UserError(f"fewer {what} than needed", got=n, expected=f"at least {least}")
