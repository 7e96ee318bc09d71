"""Judges of frozen features: a linear probe and nearest neighbours. NumPy and SciPy; convex, hence without a seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxtyping import Float
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from radnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear classifier of features as they come: what a linear probe leaves behind, for images of another site.

    Attributes:
      weights: of the features.
      bias: by class.
      multi_label: sigmoid by finding instead of softmax.
    """

    weights: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    multi_label: bool

    def scores(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Returns probabilities."""
        logits = features @ self.weights + self.bias
        return expit(logits) if self.multi_label else softmax(logits, axis=-1)

    def save(self, path: Path) -> None:
        np.savez(path, weights=self.weights, bias=self.bias, multi_label=self.multi_label)

    @classmethod
    def load(cls, path: Path) -> Linear:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["weights"], arrays["bias"], bool(arrays["multi_label"]))


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe.

    Attributes:
      mean: of each feature on train.
      scale: of each feature on train; 1 for constant features.
      weights: of the standardised features.
      bias: by class.
      multi_label: sigmoid by finding instead of softmax.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    multi_label: bool

    def scores(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Returns probabilities."""
        logits = ((features - self.mean) / self.scale) @ self.weights + self.bias
        return expit(logits) if self.multi_label else softmax(logits, axis=-1)

    def folded(self) -> Linear:
        """The same with the standardisation in its weights."""
        weights = self.weights / self.scale[:, None]
        return Linear(weights, self.bias - self.mean @ weights, self.multi_label)


def fit_linear_probes(
    features: Float[np.ndarray, "n d"],
    labels: Float[np.ndarray, "n k"],
    label_mask: Float[np.ndarray, "n k"],
    *,
    multi_label: bool,
    strengths: tuple[float, ...],
) -> list[LinearProbe]:
    """Fits logistic regression with an L2 penalty at each strength, by L-BFGS in float64.

    The loss is the mean cross-entropy over labelled entries plus `strength / 2 * |weights|^2`; the bias is free.
    Features are standardised by the train split, which leaves the probe linear. Strengths are fitted from the largest
    down, each from the solution before.

    Args:
      features: of the train split.
      labels: one-hot, or 0/1 by finding.
      label_mask: 1 where the label is known.
      multi_label: sigmoid by finding instead of softmax.
      strengths: penalties, any order.

    Returns:
      One probe for each strength, in the order of `strengths`.
    """
    known = label_mask.max(axis=1) > 0 if label_mask.size else np.zeros(len(features), bool)
    if not known.any():
        raise UserError("the linear probe has no labelled example in train", fix="use a labelled dataset")
    x, y, mask = (np.asarray(a, np.float64)[known] for a in (features, labels, label_mask))
    if not np.isfinite(x).all():
        raise UserError("features for the linear probe are not finite", fix="check the checkpoint that they come from")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(np.abs(mean), 1.0), scale, 1.0)
    x = (x - mean) / scale
    d, k = x.shape[1], y.shape[1]
    total = mask.sum() if multi_label else float(len(x))

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weights, bias = flat[: d * k].reshape(d, k), flat[d * k :]
        logits = x @ weights + bias
        if multi_label:
            loss = np.sum(mask * (np.logaddexp(0.0, logits) - y * logits)) / total
            delta = mask * (expit(logits) - y) / total
        else:
            log_p = log_softmax(logits, axis=1)
            loss = -np.sum(y * log_p) / total
            delta = (np.exp(log_p) - y) / total
        gradient = np.concatenate([(x.T @ delta + strength * weights).ravel(), delta.sum(axis=0)])
        return loss + 0.5 * strength * np.sum(weights**2), gradient

    flat, probes = np.zeros(d * k + k), {}
    for strength in sorted(set(strengths), reverse=True):
        options = {"maxiter": 1000, "maxfun": 2000, "gtol": 1e-6, "ftol": 1e-12}
        flat = minimize(objective, flat, args=(strength,), jac=True, method="L-BFGS-B", options=options).x
        probes[strength] = LinearProbe(mean, scale, flat[: d * k].reshape(d, k), flat[d * k :], multi_label)
    return [probes[s] for s in strengths]


def knn_scores(
    train_features: Float[np.ndarray, "n d"],
    train_labels: Float[np.ndarray, "n k"],
    features: Float[np.ndarray, "m d"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Float[np.ndarray, "m k"]:
    """Returns class scores by weighted nearest neighbours in cosine similarity (Wu et al. 2018, section 3.4).

    Each of the `neighbours` nearest training examples votes with exp(similarity / temperature); scores sum to 1 for
    one-hot labels. Unlabelled training examples (rows of zeros) must be left out by the caller.
    """
    if neighbours > len(train_features):
        raise UserError("kNN has fewer training examples than neighbours", got=len(train_features), expected=neighbours)
    train = _normalised(train_features)
    scores = np.empty((len(features), train_labels.shape[1]))
    for first in range(0, len(features), 1024):  # bounds the memory of the similarity matrix
        similarity = _normalised(features[first : first + 1024]) @ train.T
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        weights = np.take_along_axis(similarity, nearest, axis=1) / temperature
        weights = softmax(weights, axis=1)
        scores[first : first + 1024] = np.einsum("mn,mnk->mk", weights, train_labels[nearest])
    return scores


def _normalised(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
