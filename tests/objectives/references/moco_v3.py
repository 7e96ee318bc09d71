"""MoCo v3: algorithm 1, both directions, with the target network's embeddings of the other view."""

import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references.formulas import unit


def reference(objective, state, batch, key):
    del key
    target, stats, q, k = state.objective_state["target"], state.model_state["batch_stats"], [], []
    for v in (0, 1):
        view = batch["views"][:, v]
        online, _ = networks.apply(objective.modules, state.params, stats, view, train=True)
        q.append(unit(online["predictor"]))
        modules = {name: objective.modules[name] for name in ("backbone", "projector")}
        seen, _ = networks.apply(modules, target["params"], target["batch_stats"], view, train=True)
        k.append(unit(seen["projector"]))
    total, t = 0.0, objective.temperature
    for one, other in ((q[0], k[1]), (q[1], k[0])):
        for i in range(len(one)):
            scores = other @ one[i] / t
            total += 2 * t * (np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[i]) / len(one)
    return total


def chance(objective, batch_size):
    return 2 * 2 * objective.temperature * np.log(batch_size)
