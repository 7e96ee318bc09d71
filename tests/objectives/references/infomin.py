"""InfoMin: half of the loss for the view, half for the puzzle, both against the target's key and the queue."""

import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references import formulas
from tests.objectives.references.pirl import puzzle


def reference(objective, state, batch, key):
    del key
    target, views, stats = state.objective_state["target"], batch["views"], state.model_state["batch_stats"]
    q, stats = networks.apply(objective.modules, state.params, stats, views[:, 0], train=True)
    z_puzzle = puzzle(objective, state.params, stats, batch["tiles"])
    k, _ = networks.apply(objective.modules, target["params"], target["batch_stats"], views[:, 1], train=True)
    queue = state.objective_state["queue"]["keys"]
    losses = [formulas.info_nce(z, k["projector"], queue, objective.temperature) for z in (q["projector"], z_puzzle)]
    return 0.5 * losses[0] + 0.5 * losses[1]


def chance(objective, batch_size):
    del batch_size
    return np.log(1 + objective.queue)
