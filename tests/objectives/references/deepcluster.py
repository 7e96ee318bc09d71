"""DeepCluster v2 and SeLa v2 in NumPy: cross-entropy of all views with the clusters found before the epoch."""

import numpy as np

from radnet_jax.objectives import multicrop
from tests.losses.test_deepcluster import formula


def reference(objective, state, batch, key):
    del key
    _, z, _ = multicrop.apply(objective.modules, state.params, state.model_state["batch_stats"], batch)
    remembered = state.objective_state
    assignments = np.asarray(remembered["bank"]["assignments"])[np.asarray(batch["index"])]
    return formula(z, remembered["prototypes"], assignments, objective.temperature)


def chance(objective, batch_size):
    del batch_size
    return np.log(objective.prototypes)
