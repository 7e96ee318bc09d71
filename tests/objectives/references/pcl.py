"""PCL in NumPy: Li et al. 2021, equation 9 (InfoNCE and the mean of ProtoNCE over the clusterings)."""

import jax
import numpy as np

from radnet_jax.losses.proto_nce import draw_negatives
from radnet_jax.objectives import networks
from tests.losses.test_proto_nce import equation_11
from tests.objectives.references import moco


def reference(objective, state, batch, key):
    stats, remembered = state.model_state["batch_stats"], state.objective_state
    q, _ = networks.apply(objective.modules, state.params, stats, batch["views"][:, 0], train=True)
    assignments = np.asarray(remembered["bank"]["assignments"])[np.asarray(batch["index"])]
    terms = []
    for m, k in enumerate(objective.clusters):
        own = assignments[:, m]
        drawn, counted = draw_negatives(jax.random.fold_in(key, m), own, k, objective.negatives)
        negatives = np.asarray(drawn)[np.asarray(counted)]
        prototypes, phi = remembered["prototypes"][str(m)], remembered["concentration"][str(m)]
        terms.append(equation_11(q["projector"], prototypes, phi, own, negatives))
    return moco.reference(objective, state, batch, key) + np.mean(terms)


def chance(objective, batch_size):
    """Of the first steps, which have no prototypes."""
    del batch_size
    return np.log(1 + objective.queue)
