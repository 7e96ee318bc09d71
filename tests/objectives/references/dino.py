"""DINO from the networks' outputs: cross entropies of each pair of views of each example, in loops."""

import numpy as np

from radnet_jax.objectives import networks


def _log_softmax(x):
    x = x - x.max()
    return x - np.log(np.sum(np.exp(x)))


def reference(objective, state, batch, key):
    del key
    stats, target = state.model_state["batch_stats"], state.objective_state["target"]
    heads = {name: module for name, module in objective.modules.items() if name != "backbone"}

    def outputs(params, stats, *names):
        """The backbone sees the views of one size at a time, the rest all of them."""
        features = []
        for views in (batch[name] for name in names if name in batch):
            backbone = {"backbone": objective.backbone}
            out, _ = networks.apply(backbone, params, stats, networks.fold(views), train=True)
            features.append(networks.unfold(out["backbone"], views.shape[1]))
        joined = np.concatenate(features, axis=1)
        out, _ = networks.apply(heads, params, stats, networks.fold(joined), train=True)
        return np.float64(networks.unfold(out["last_layer"], joined.shape[1]))

    student = outputs(state.params, stats, "views", "local_views")
    teacher = outputs(target["params"], target["batch_stats"], "views") - np.float64(state.objective_state["centre"])
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
