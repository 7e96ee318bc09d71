"""Instance discrimination: equation 2 over the own row of the bank and the rows drawn with the step's key."""

import jax
import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references import formulas


def reference(objective, state, batch, key):
    stats = state.model_state["batch_stats"]
    outputs, _ = networks.apply(objective.modules, state.params, stats, batch["image"], train=True)
    rows = formulas.bank_rows(state)
    others = rows[np.asarray(jax.random.randint(key, (objective.draws,), 0, objective.num_examples))]
    return formulas.info_nce(outputs["projector"], rows[np.asarray(batch["index"])], others, objective.temperature)


def chance(objective, batch_size):
    del batch_size
    return np.log(1 + objective.draws)
