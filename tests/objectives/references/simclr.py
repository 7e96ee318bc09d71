"""Chen et al. 2020, equation 1, written out with loops."""

import numpy as np

from radnet_jax.objectives import networks


def reference(objective, state, batch, key):
    views = batch["views"]
    outputs, _ = networks.apply(
        objective.modules, state.params, state.model_state["batch_stats"], networks.fold(views), train=True
    )
    z = np.asarray(networks.unfold(outputs["projector"], 2), np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    rows = [(i, v) for i in range(len(z)) for v in (0, 1)]
    total = 0.0
    for i, v in rows:
        similarity = {(j, w): z[i, v] @ z[j, w] / objective.temperature for j, w in rows if (j, w) != (i, v)}
        total += -similarity[i, 1 - v] + np.log(np.sum(np.exp(list(similarity.values()))))
    return total / len(rows)


def chance(objective, batch_size):
    return np.log(2 * batch_size - 1)
