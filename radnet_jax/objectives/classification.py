"""Classification: a linear head on the backbone's features, trained with all of it or from a start."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError
from radnet_jax.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from radnet_jax.models.heads import LinearHead
from radnet_jax.objectives import OBJECTIVES, Batch, Defaults, networks
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class Classification(Defaults):
    """Softmax cross-entropy for single-label tasks, sigmoid cross-entropy by finding for multi-label ones.

    Unlabelled examples and uncertain findings are left out of the mean by `label_mask`.

    Attributes:
      backbone: the network that is fine-tuned.
      head: the task's linear layer.
      task: "single_label" or "multi_label".
      label_smoothing: share of the target spread over all classes (single-label only).
    """

    backbone: Any
    head: Any
    task: str
    label_smoothing: float

    requires = frozenset({"image", "labels", "label_mask"})
    heads = r"head/.*"

    @property
    def modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "head": self.head}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["image"])
        return params, {"batch_stats": batch_stats}, {}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        stats = state.model_state["batch_stats"]
        outputs, new_stats = networks.apply(self.modules, params, stats, batch["image"], train=True)
        logits = outputs["head"]
        labels, mask = batch["labels"], batch["label_mask"]
        if self.task == "multi_label":
            loss = sigmoid_cross_entropy(logits, labels, label_mask=mask)
            hits = (logits > 0) == (labels > 0.5)
        else:
            loss = softmax_cross_entropy(logits, labels, label_mask=mask, label_smoothing=self.label_smoothing)
            hits = (logits.argmax(-1) == labels.argmax(-1))[:, None]
            mask = mask.max(-1, keepdims=True)
        accuracy = jnp.sum(hits * mask) / jnp.maximum(jnp.sum(mask), 1.0)
        features = outputs["backbone"][:, None]
        metrics = {"train_accuracy": accuracy}
        return loss, LossAux({"batch_stats": new_stats}, state.objective_state, metrics, features=features)

    def weight(self, batch: Batch) -> Float[Array, ""]:
        mask = batch["label_mask"].astype(jnp.float32)
        return mask.sum() if self.task == "multi_label" else mask.min(axis=-1).sum()

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        stats = model_state["batch_stats"]
        outputs, _ = networks.apply(self.modules, params, stats, batch["image"], train=False)
        return {"features": outputs["backbone"], "logits": outputs["head"]}


@OBJECTIVES.register("classification")
def classification(*, backbone: Any, card: DatasetCard, label_smoothing: float = 0.0) -> Classification:
    """Makes the objective for the task of `card`; a dataset without labels, or with one class, is refused."""
    if card.task == "none" or len(card.labels) < 1 or (card.task == "single_label" and len(card.labels) < 2):
        raise UserError(
            f"objective 'classification' needs labels and dataset {card.name} has none to tell apart",
            got=f"task {card.task!r} with {len(card.labels)} class(es)",
            fix="use a labelled dataset, or a pretraining objective",
        )
    if label_smoothing and card.task == "multi_label":
        raise UserError("label_smoothing is for single-label tasks", got=f"dataset {card.name} (multi-label)")
    return Classification(
        backbone=backbone, head=LinearHead(len(card.labels)), task=card.task, label_smoothing=label_smoothing
    )
