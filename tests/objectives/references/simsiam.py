"""SimSiam from the networks' outputs: minus the cosine of predictions and the other view's embeddings."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    del key
    stats = state.model_state["batch_stats"]
    outputs, _ = networks.apply_views(objective.modules, state.params, stats, batch["views"])
    ordered = outputs["predictor"], outputs["projector"]
    # A prediction of zeros, of a bottleneck whose units are all off, has no direction: its cosine counts as 0.
    p, z = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in map(np.float64, ordered))
    total = 0.0
    for i in range(len(p)):
        for v in (0, 1):
            total -= p[i, v] @ z[i, 1 - v] / 2
    return total / len(p)


def chance(objective, batch_size):
    """Unrelated directions have a cosine of 0: no value that a loss could be compared with by ratio."""
    del objective, batch_size
    return None
