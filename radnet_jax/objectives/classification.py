"""Classification: a linear head on the backbone's features, trained with all of it or from a start."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
import numpy as np

from radnet_jax.data.card import DatasetCard
from radnet_jax.data.labels import Counts
from radnet_jax.errors import UserError
from radnet_jax.losses.classification import (
    balanced_weights,
    log_odds,
    log_priors,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from radnet_jax.models.heads import LinearHead
from radnet_jax.objectives import OBJECTIVES, Batch, Defaults, networks
from radnet_jax.state import LossAux, TrainState

Weights = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Classification(Defaults):
    """Softmax cross-entropy for single-label tasks, sigmoid cross-entropy by finding for multi-label ones.

    Unlabelled examples and uncertain findings are left out of the mean by `label_mask`, unless `uncertain` says what
    stands for them.

    Attributes:
      backbone: the network that is fine-tuned.
      head: the task's linear layer.
      task: "single_label" or "multi_label".
      label_smoothing: share of the target spread over all classes (single-label only).
      class_weights: of each class or finding in the mean; () for equal ones.
      outcome_weights: of the labels 0 and 1 of each finding (multi-label only); () for equal ones.
      shift: added to the logits in the loss, and not in predictions: the logit adjustment; () for none.
      uncertain: range that a label is drawn from where `label_mask` is 0, anew in each step; () leaves it out.
    """

    backbone: Any
    head: Any
    task: str
    label_smoothing: float = 0.0
    class_weights: Weights = ()
    outcome_weights: tuple[Weights, ...] = ()
    shift: Weights = ()
    uncertain: Weights = ()

    requires = frozenset({"image", "labels", "label_mask"})
    heads = r"head/.*"

    @property
    def modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "head": self.head}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["image"])
        return params, {"batch_stats": batch_stats}, {}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        stats = state.model_state["batch_stats"]
        outputs, new_stats = networks.apply(self.modules, params, stats, batch["image"], train=True)
        logits = outputs["head"]
        labels, mask = batch["labels"], batch["label_mask"]
        shifted = logits + jnp.asarray(self.shift, jnp.float32) if self.shift else logits
        weights = jnp.asarray(self.class_weights) if self.class_weights else None
        if self.task == "multi_label":
            hits = (logits > 0) == (labels > 0.5)
            target: Array = labels
            counting: Array | None = mask
            if self.uncertain:
                target, counting = self._drawn(batch, rng), None
            outcomes = jnp.asarray(self.outcome_weights) if self.outcome_weights else None
            loss = sigmoid_cross_entropy(
                shifted, target, label_mask=counting, class_weights=weights, outcome_weights=outcomes
            )
        else:
            loss = softmax_cross_entropy(
                shifted, labels, label_mask=mask, label_smoothing=self.label_smoothing, class_weights=weights
            )
            hits = (logits.argmax(-1) == labels.argmax(-1))[:, None]
            mask = mask.max(-1, keepdims=True)
        accuracy = jnp.sum(hits * mask) / jnp.maximum(jnp.sum(mask), 1.0)
        features = outputs["backbone"][:, None]
        metrics = {"train_accuracy": accuracy}
        return loss, LossAux({"batch_stats": new_stats}, state.objective_state, metrics, features=features)

    def _drawn(self, batch: Batch, rng: Array) -> Float[Array, "b k"]:
        """The labels, and soft ones where they are not known."""
        low, high = self.uncertain
        drawn = jax.random.uniform(rng, batch["labels"].shape, minval=low, maxval=high)
        return jnp.where(batch["label_mask"] > 0, batch["labels"], drawn)

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        """Sum of the weights that the mean of the loss is divided by."""
        mask, labels = batch["label_mask"].astype(jnp.float32), batch["labels"].astype(jnp.float32)
        if self.uncertain:
            mask, labels = jnp.ones_like(mask), self._drawn(batch, rng)  # what is not known counts too
        if self.task == "single_label":
            known = mask.min(axis=-1)
            return (known * (labels @ jnp.asarray(self.class_weights))).sum() if self.class_weights else known.sum()
        if self.class_weights:
            mask = mask * jnp.asarray(self.class_weights)
        if self.outcome_weights:
            absent, present = jnp.asarray(self.outcome_weights)
            mask = mask * (absent + labels * (present - absent))
        return mask.sum()

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        stats = model_state["batch_stats"]
        outputs, _ = networks.apply(self.modules, params, stats, batch["image"], train=False)
        return {"features": outputs["backbone"], "logits": outputs["head"]}


@OBJECTIVES.register("classification")
def classification(
    *,
    backbone: Any,
    card: DatasetCard,
    counts: Callable[[], Counts],
    label_smoothing: float = 0.0,
    class_weights: str | Weights = "none",
    logit_adjustment: float = 0.0,
    uncertain: Weights = (),
    head_bias: bool = True,
) -> Classification:
    """Makes the objective for the task of `card`.

    Args:
      backbone: the network.
      card: of the dataset.
      counts: returns those of the labels of the train split, or of the subset of it that is trained on.
      label_smoothing: share of the target spread over all classes (single-label only).
      class_weights: "none"; "balanced", so that each class counts alike (of a finding: with it and without it, and so
        do the findings); or a number for each class or finding.
      logit_adjustment: this many times the log prior of each class (the log odds of each finding) is added to the
        logits in the loss: 1 learns what minimises the balanced error (Menon et al. 2021, equation 10).
      uncertain: (low, high): a finding that is not known counts as a soft label, drawn uniformly from this range anew
        in each step (label smoothing of uncertain findings: Pham et al. 2021, section 3.3); () leaves it out.
      head_bias: whether the head has a bias.

    Raises:
      UserError: a dataset without labels, or with one class; a value out of range; weights or priors of a class that
        is missing in train.
    """
    if card.task == "none" or len(card.labels) < 1 or (card.task == "single_label" and len(card.labels) < 2):
        raise UserError(
            f"objective 'classification' needs labels and dataset {card.name} has none to tell apart",
            got=f"task {card.task!r} with {len(card.labels)} class(es)",
            fix="use a labelled dataset, or a pretraining objective",
        )
    multi_label = card.task == "multi_label"
    if label_smoothing and multi_label:
        raise UserError("label_smoothing is for single-label tasks", got=f"dataset {card.name} (multi-label)")
    if uncertain and not (multi_label and len(uncertain) == 2 and 0 <= uncertain[0] <= uncertain[1] <= 1):
        raise UserError(
            "objective: uncertain", got=uncertain, expected="(low, high) within 0 to 1, of a multi-label task; or ()"
        )
    balanced = class_weights == "balanced"
    shift: Weights = ()
    weights: Weights = ()
    outcomes: tuple[Weights, ...] = ()
    if balanced or logit_adjustment:
        positive, known = _counted(counts(), card)
        prior = log_odds(positive, known) if multi_label else log_priors(positive)
        shift = tuple(logit_adjustment * value for value in prior) if logit_adjustment else ()
        if balanced and multi_label:
            outcomes = tuple((known / (2 * (known - positive))).tolist()), tuple((known / (2 * positive)).tolist())
        elif balanced:
            weights = balanced_weights(positive)
    if not balanced and class_weights != "none":
        weights = _given(class_weights, card)
    return Classification(
        backbone=backbone,
        head=LinearHead(len(card.labels), head_bias),
        task=card.task,
        label_smoothing=label_smoothing,
        class_weights=weights,
        outcome_weights=outcomes,
        shift=shift,
        uncertain=tuple(uncertain),
    )


def _counted(counts: Counts, card: DatasetCard) -> tuple[np.ndarray, np.ndarray]:
    """Returns the records with each label and those where it is known, float64; both kinds are needed."""
    counts.check(f"the training records of dataset {card.name}")
    if card.task == "multi_label" and counts.one_sided:
        raise UserError(
            "class_weights='balanced' and logit_adjustment need examples without each finding",
            got=f"every record has {counts.one_sided[0]}",
        )
    return np.asarray(counts.positive, np.float64), np.asarray(counts.known, np.float64)


def _given(weights: str | Weights, card: DatasetCard) -> Weights:
    given = () if isinstance(weights, str) else tuple(weights)
    if len(given) != len(card.labels) or min(given) < 0 or not sum(given):
        raise UserError(
            "objective: class_weights",
            got=repr(weights),
            expected=f'"none", "balanced" or {len(card.labels)} numbers of at least 0, one for each label',
        )
    return given
