"""VICReg from the networks' outputs: NumPy's covariances, in loops."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    del key
    stats = state.model_state["batch_stats"]
    outputs, _ = networks.apply_views(objective.modules, state.params, stats, batch["views"])
    z = np.float64(outputs["projector"])
    n, _, d = z.shape
    total = objective.invariance * sum(np.sum((z[i, 0] - z[i, 1]) ** 2) for i in range(n)) / (n * d)
    for x in (z[:, 0], z[:, 1]):
        c = np.cov(x.T)
        low = [max(0.0, objective.gamma - np.sqrt(c[j, j] + 1e-4)) for j in range(d)]
        total += objective.variance * np.mean(low) / 2
        total += objective.covariance * (np.sum(c**2) - np.sum(np.diag(c) ** 2)) / d
    return total


def chance(objective, batch_size):
    """It depends on the lengths of the embeddings: there is no one value."""
    del objective, batch_size
    return None
