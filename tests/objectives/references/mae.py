"""MAE from the networks' outputs: which patches are seen, put back and compared, in NumPy's loops."""

import jax
import numpy as np


def reference(objective, state, batch, key):
    image = np.asarray(batch["image"])
    backbone, decoder = ({"params": state.params[name]} for name in ("backbone", "decoder"))
    tokens = np.asarray(objective.backbone.apply(backbone, image, method="embed"))
    b, n = tokens.shape[:2]
    noise = np.asarray(jax.random.uniform(key, (b, n)))
    visible = int(n * (1 - objective.mask_ratio))
    seen = [np.argsort(row, kind="stable")[:visible] for row in noise]
    encoded = objective.backbone.apply(
        backbone, np.stack([tokens[i, seen[i]] for i in range(b)]), train=True, method="encode"
    )
    place = np.argsort(np.argsort(noise, axis=1, kind="stable"), axis=1, kind="stable")
    side = objective.backbone.patch
    grid = image.shape[1] // side, image.shape[2] // side
    predictions = np.float64(objective.decoder.apply(decoder, encoded, place, grid, side * side * image.shape[-1]))
    errors = []
    for i in range(b):
        for j in sorted(set(range(n)) - set(seen[i].tolist())):
            row, column = divmod(j, grid[1])
            x = np.float64(image[i, row * side : (row + 1) * side, column * side : (column + 1) * side]).ravel()
            target = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-6)
            errors.append(np.mean((predictions[i, j] - target) ** 2))
    return np.mean(errors)


def chance(objective, batch_size):
    """Zeros have a loss of nearly 1, less where patches are all of one value; the initial predictions are no zeros."""
    del objective, batch_size
    return None
