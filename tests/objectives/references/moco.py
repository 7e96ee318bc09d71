"""MoCo: equation 1 with the keys of the target network and the queue as it was before the step."""

import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references import formulas


def reference(objective, state, batch, key):
    del key
    target, views = state.objective_state["target"], batch["views"]
    stats = state.model_state["batch_stats"]
    q, _ = networks.apply(objective.modules, state.params, stats, views[:, 0], train=True)
    k, _ = networks.apply(objective.modules, target["params"], target["batch_stats"], views[:, 1], train=True)
    queue = state.objective_state["queue"]["keys"]
    return formulas.info_nce(q["projector"], k["projector"], queue, objective.temperature)


def chance(objective, batch_size):
    del batch_size
    return np.log(1 + objective.queue)
