"""Ridge regression of labels on frozen features, for every penalty at once. NumPy, float64; no seed.

One eigendecomposition of the features' covariance gives the solution for any penalty by a division (Hoerl & Kennard
1970; Hastie, Tibshirani & Friedman 2009, section 3.4.1), so that a whole path costs little more than one fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses

from jaxtyping import Float
import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, softmax

from radnet_jax.errors import UserError
from radnet_jax.evaluation.probes import Linear

# Of the standardised features, whose covariance has the mean eigenvalue 1.
STRENGTHS = tuple((10.0 ** (np.arange(-12, 7) / 2)).tolist())
_ROWS = 8192  # at once: bounds the memory of a float64 copy


@dataclasses.dataclass(frozen=True)
class RidgePath:
    """Least squares with an L2 penalty on the weights, for all penalties.

    Of label j, over the n_j examples where it is known, features standardised by their mean and deviation there:
    minimise mean((x w + b - y)^2) + strength * |w|^2, y = 1 or -1; the bias b is free. Labels with the same known
    examples share a decomposition.

    Attributes:
      groups: of each set of labels that are known in the same examples.
      labels: number of labels.
    """

    groups: tuple[_Group, ...]
    labels: int

    def scores(
        self, features: Float[np.ndarray, "n d"], strengths: Sequence[float]
    ) -> Iterator[Float[np.ndarray, "n k"]]:
        """Yields the scores of each strength, float32: no probabilities, higher is more likely.

        The examples are turned into the eigenvectors' directions once for all strengths.
        """
        turned = [(g, g.turned(features)) for g in self.groups]
        for strength in strengths:
            out = np.full((len(features), self.labels), -1.0, np.float32)  # of a label that nobody knows
            for group, x in turned:
                shrunk = (group.projected / (group.eigenvalues + strength)[:, None]).astype(np.float32)
                out[:, group.members] = x @ shrunk + group.bias.astype(np.float32)
            yield out

    def folded(self, strength: float, *, multi_label: bool) -> Linear:
        """Returns the solution of one strength as a classifier whose scores are those of `squashed`."""
        d = len(self.groups[0].scale)
        weights, bias = np.zeros((d, self.labels)), np.full(self.labels, -1.0)
        for group in self.groups:
            shrunk = group.projected / (group.eigenvalues + strength)[:, None]
            weights[:, group.members] = (group.vectors / group.scale[:, None]) @ shrunk
            bias[group.members] = group.bias - group.mean @ weights[:, group.members]
        return Linear(2 * weights, 2 * bias, multi_label)


@dataclasses.dataclass(frozen=True)
class _Group:
    members: np.ndarray  # labels
    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d d"]
    eigenvalues: Float[np.ndarray, " d"]
    projected: Float[np.ndarray, "d m"]  # vectors^T x^T y / n
    bias: Float[np.ndarray, " m"]

    def turned(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        parts = range(0, len(features), _ROWS)
        vectors = (self.vectors / self.scale[:, None]).astype(np.float32)
        turned = [np.asarray(features[i : i + _ROWS] - self.mean, np.float32) @ vectors for i in parts]
        return np.concatenate(turned) if turned else np.zeros((0, len(self.scale)), np.float32)


def fit_ridge_path(
    features: Float[np.ndarray, "n d"], labels: Float[np.ndarray, "n k"], label_mask: Float[np.ndarray, "n k"]
) -> RidgePath:
    """Fits the path.

    Args:
      features: of the train split; any float dtype.
      labels: one-hot, or 0/1 by finding.
      label_mask: 1 where the label is known.

    Raises:
      UserError: no labelled example, or features that are not finite.
    """
    known = np.asarray(label_mask) > 0
    if not known.any():
        raise UserError("the ridge probe has no labelled example in train", fix="use a labelled dataset")
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    whose = np.ravel(which)
    groups = [
        _fit(features, labels, np.flatnonzero(whose == g), patterns[:, g])
        for g in range(patterns.shape[1])
        if patterns[:, g].any()
    ]
    return RidgePath(tuple(groups), known.shape[1])


def _fit(features: np.ndarray, labels: np.ndarray, members: np.ndarray, known: np.ndarray) -> _Group:
    rows = np.flatnonzero(known)
    n, d = len(rows), features.shape[1]
    total, squares, cross = np.zeros(d), np.zeros((d, d)), np.zeros((d, len(members)))
    sums = np.zeros(len(members))
    # Sums about a rough centre: exact in float64 where the mean is much larger than the deviation.
    centre = np.asarray(features[rows[:_ROWS]], np.float64).mean(axis=0)
    for first in range(0, n, _ROWS):
        part = rows[first : first + _ROWS]
        x = np.asarray(features[part], np.float64) - centre
        total += x.sum(axis=0)
        squares += x.T @ x
        # Of y = 2 * label - 1: few labels are 1, so their sums cost next to nothing beside the products of features.
        positive = csr_array(np.asarray(labels[np.ix_(part, members)], np.float64))
        cross += 2 * (positive.T @ x).T - x.sum(axis=0)[:, None]
        sums += 2 * positive.sum(axis=0) - len(part)
    if not np.isfinite(total).all():
        raise UserError("features for the ridge probe are not finite", fix="check the checkpoint that they come from")
    mean = total / n
    bias = sums / n
    covariance = squares / n - np.outer(mean, mean)
    cross = cross / n - np.outer(mean, bias)
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    constant = scale <= 1e-7 * np.maximum(np.abs(mean + centre), 1.0)
    scale = np.where(constant, 1.0, scale)
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    projected = vectors.T @ (cross / scale[:, None])
    return _Group(members, mean + centre, scale, vectors, np.maximum(eigenvalues, 0.0), projected, bias)


def squashed(scores: Float[np.ndarray, "n k"], *, multi_label: bool) -> Float[np.ndarray, "n k"]:
    """Returns scores as numbers from 0 to 1, as predictions are kept: a softmax, or a sigmoid by finding, of twice the
    score. They rank as the scores do and are not calibrated."""
    return expit(2 * scores) if multi_label else softmax(2 * scores, axis=-1)


def logistic_strength(
    strength: float, labels: Float[np.ndarray, "n k"], label_mask: Float[np.ndarray, "n k"], *, multi_label: bool
) -> float:
    """Returns the penalty of `probes.fit_linear_probes` that shrinks as much as this strength does here.

    About the null model both losses are quadratic. The squared loss curves by the covariance, the cross entropy by that
    times a factor: of a finding p (1 - p), p the share of positives, times the finding's share of the entries that the
    loss is a mean over; of classes the eigenvalues of diag(p) - p p^T, without the 0 of what all classes share. The
    mean of these factors is that of the penalty.
    """
    known = np.asarray(label_mask) > 0
    count = known.sum(axis=0)
    share = np.sum(np.where(known, labels, 0), axis=0) / np.maximum(count, 1)
    curves = share * (1 - share)
    factor = np.mean(curves * count / count.sum()) if multi_label else curves.sum() / (len(curves) - 1)
    return float(strength * factor)
