"""SwAV in NumPy: Caron et al. 2020, equations 2 to 5 and 9."""

import numpy as np

from radnet_jax.objectives import multicrop
from tests.losses.test_swav import paper


def reference(objective, state, batch, key):
    stats = state.model_state["batch_stats"]
    _, z, _ = multicrop.apply(objective.modules, state.params, stats, batch)
    queue = state.objective_state.get("queue")
    if queue is not None and int(state.step) < objective.queue_from_step + objective.queue_size // len(z):
        queue = None
    return paper(
        np.asarray(z),
        np.asarray(state.params["prototypes"]["vectors"]),
        temperature=objective.temperature,
        epsilon=objective.epsilon,
        iterations=objective.iterations,
        queue=queue,
    )


def chance(objective, batch_size):
    return np.log(objective.prototypes)
