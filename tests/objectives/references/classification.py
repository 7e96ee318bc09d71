"""Cross-entropy over the classes, mean over the labelled examples (with label smoothing: Szegedy et al. 2016)."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    outputs, _ = networks.apply(
        objective.modules, state.params, state.model_state["batch_stats"], batch["image"], train=True
    )
    logits, labels = np.asarray(outputs["head"], np.float64), np.asarray(batch["labels"], np.float64)
    mask = np.asarray(batch["label_mask"], np.float64)
    if objective.task == "multi_label":
        p = 1 / (1 + np.exp(-logits))
        return -((labels * np.log(p) + (1 - labels) * np.log(1 - p)) * mask).sum() / mask.sum()
    k, smoothing = logits.shape[1], objective.label_smoothing
    known = mask.min(axis=1)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = (1 - smoothing) * labels + smoothing / k
    return -((targets * log_p).sum(axis=1) * known).sum() / known.sum()


def chance(objective, batch_size):
    return np.log(2) if objective.task == "multi_label" else np.log(objective.head.out)
