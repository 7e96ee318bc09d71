"""SimCLR: equation 1 over all views of the global batch."""

import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references import formulas


def reference(objective, state, batch, key):
    del key
    views, stats = batch["views"], state.model_state["batch_stats"]
    outputs, _ = networks.apply(objective.modules, state.params, stats, networks.fold(views), train=True)
    return formulas.nt_xent(networks.unfold(outputs["projector"], 2), objective.temperature)


def chance(objective, batch_size):
    del objective
    return np.log(2 * batch_size - 1)
