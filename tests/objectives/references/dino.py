"""DINO from the networks' outputs: cross entropies of each pair of views of each example, in loops."""

import numpy as np

from radnet_jax.objectives import networks


def _log_softmax(x):
    x = x - x.max()
    return x - np.log(np.sum(np.exp(x)))


def reference(objective, state, batch, key):
    del key
    views = batch["views"]
    stats, target = state.model_state["batch_stats"], state.objective_state["target"]

    def outputs(views, params, stats):
        out, _ = networks.apply(objective.modules, params, stats, networks.fold(views), train=True)
        return np.float64(networks.unfold(out["last_layer"], views.shape[1]))

    kinds = [batch[name] for name in ("views", "local_views") if name in batch]
    student = np.concatenate([outputs(kind, state.params, stats) for kind in kinds], axis=1)
    teacher = outputs(views, target["params"], target["batch_stats"]) - np.float64(state.objective_state["centre"])
    share = min(1.0, int(state.step) / objective.temperature_steps) if objective.temperature_steps else 1.0
    first, last = objective.temperature_first, objective.temperature_last
    temperature = first + (last - first) * share
    terms = [
        -np.sum(
            np.exp(_log_softmax(teacher[i, t] / temperature))
            * _log_softmax(student[i, v] / objective.student_temperature)
        )
        for i in range(len(student))
        for t in range(teacher.shape[1])
        for v in range(student.shape[1])
        if v != t
    ]
    return np.mean(terms)


def chance(objective, batch_size):
    del batch_size
    return np.log(objective.last_layer.out)
