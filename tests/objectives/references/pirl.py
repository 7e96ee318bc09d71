"""PIRL: half of the loss for the image, half for its puzzle, with a head for the tiles that is written out."""

import jax
import numpy as np

from radnet_jax.objectives import networks
from tests.objectives.references import formulas


def puzzle(objective, params, stats, tiles):
    """Returns the embedding [b e] of each image's tiles."""
    backbone = {"backbone": objective.backbone}
    b, t = tiles.shape[:2]
    outputs, _ = networks.apply(backbone, params, stats, tiles.reshape(b * t, *tiles.shape[2:]), train=True)
    features, head = np.asarray(outputs["backbone"], np.float64).reshape(b, t, -1), params["jigsaw"]
    rows = []
    for image in features:
        joined = []
        for x in image:
            for i in range(1, objective.jigsaw.layers + 1):
                linear = head["each"][f"linear{i}"]
                x = x @ np.asarray(linear["kernel"], np.float64) + np.asarray(linear["bias"])
                x = np.maximum(x, 0) if i < objective.jigsaw.layers else x
            joined.extend(x)
        rows.append(np.array(joined) @ np.asarray(head["joined"]["kernel"], np.float64) + head["joined"]["bias"])
    return np.array(rows)


def reference(objective, state, batch, key):
    stats = state.model_state["batch_stats"]
    outputs, stats = networks.apply(objective.modules, state.params, stats, batch["image"], train=True)
    z_puzzle = puzzle(objective, state.params, stats, batch["tiles"])
    rows = formulas.bank_rows(state)
    others = rows[np.asarray(jax.random.randint(key, (objective.draws,), 0, objective.num_examples))]
    own = rows[np.asarray(batch["index"])]
    losses = [formulas.info_nce(z, own, others, objective.temperature) for z in (outputs["projector"], z_puzzle)]
    return 0.5 * losses[0] + 0.5 * losses[1]


def chance(objective, batch_size):
    del batch_size
    return np.log(1 + objective.draws)
