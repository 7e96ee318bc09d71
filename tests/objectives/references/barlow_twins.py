"""Barlow Twins from the networks' outputs: each entry of the cross-correlation on its own."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    del key
    stats = state.model_state["batch_stats"]
    outputs, _ = networks.apply_views(objective.modules, state.params, stats, batch["views"])
    z = np.float64(outputs["projector"])
    a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (z[:, 0], z[:, 1]))
    total = 0.0
    for i in range(z.shape[2]):
        for j in range(z.shape[2]):
            c = a[:, i] @ b[:, j] / len(z)
            total += (1 - c) ** 2 if i == j else objective.weight_off_diagonal * c**2
    return total


def chance(objective, batch_size):
    """Views without correlation: 1 for each dimension."""
    del batch_size
    return float(objective.projector.out)
