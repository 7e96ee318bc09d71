"""BYOL from the networks' outputs: squared distances of unit vectors, summed over the two orders of the views."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    del key
    target = state.objective_state["target"]
    online, _ = networks.apply_views(objective.modules, state.params, state.model_state["batch_stats"], batch["views"])
    seen, _ = networks.apply_views(objective.target_modules, target["params"], target["batch_stats"], batch["views"])
    p, z = np.float64(online["predictor"]), np.float64(seen["projector"])
    total = 0.0
    for i in range(len(p)):
        for v in (0, 1):
            a, b = p[i, v] / np.linalg.norm(p[i, v]), z[i, 1 - v] / np.linalg.norm(z[i, 1 - v])
            total += np.sum((a - b) ** 2)
    return total / len(p)


def chance(objective, batch_size):
    """Unrelated directions: a squared distance of 2 for each of the two orders."""
    del objective, batch_size
    return 4.0
