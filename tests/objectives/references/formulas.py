"""Pieces of the papers' losses in NumPy float64, for the references of the contrastive objectives."""

import numpy as np


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bank_rows(state):
    rows = np.asarray(state.objective_state["bank"]["rows"])
    if rows.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    return rows


def info_nce(queries, keys, negatives, temperature):
    """He et al. 2020, equation 1: mean over the queries."""
    q, k, others = unit(queries), unit(keys), unit(negatives)
    losses = []
    for i in range(len(q)):
        scores = np.array([q[i] @ k[i], *(others @ q[i])]) / temperature
        losses.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[0])
    return np.mean(losses)


def nt_xent(z, temperature):
    """Chen et al. 2020, equation 1: mean over the embeddings of two views, z [n 2 d]."""
    z = unit(z)
    rows = [(i, v) for i in range(len(z)) for v in (0, 1)]
    total = 0.0
    for i, v in rows:
        scores = {(j, w): z[i, v] @ z[j, w] / temperature for j, w in rows if (j, w) != (i, v)}
        total += np.log(np.sum(np.exp(list(scores.values())))) - scores[i, 1 - v]
    return total / len(rows)
