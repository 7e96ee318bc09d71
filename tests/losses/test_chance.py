"""Embeddings that know nothing of each other are at chance: independent directions of so many dimensions that their
cosines, of standard deviation 1 / sqrt(d), are small against each temperature."""

import jax
import numpy as np
import pytest

from radnet_jax.losses import barlow, cosine, deepcluster, dino, info_nce, ntxent, proto_nce, swav

B, D, K = 64, 4096, 32
LOOSE = 0.02  # a variance of cosines adds 1 / (2 d t^2) to a loss: .012 at the temperature .1


def directions(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal((*shape, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


Z, PROTOTYPES = directions(B, 2), directions(K, seed=1)
CLUSTERS = np.random.default_rng(2).integers(0, K, B)
LOSSES = {
    "nt_xent": (lambda: ntxent.nt_xent(Z, temperature=0.1), np.log(2 * B - 1)),
    "info_nce": (lambda: info_nce.info_nce(Z[:, 0], Z[:, 1], PROTOTYPES, temperature=0.1), np.log(1 + K)),
    "in_batch_nce": (lambda: info_nce.in_batch_nce(Z[:, 0], Z[:, 1], temperature=0.1), 0.2 * np.log(B)),
    "swapped_prediction": (
        lambda: swav.swapped_prediction(Z, PROTOTYPES, temperature=0.1, epsilon=0.05, iterations=3),
        np.log(K),
    ),
    "queue": (
        lambda: swav.swapped_prediction(
            Z,
            PROTOTYPES,
            temperature=0.1,
            epsilon=0.05,
            iterations=3,
            queue=directions(2, B, seed=3),
            queue_valid=np.True_,
        ),
        np.log(K),
    ),
    "cluster_cross_entropy": (
        lambda: deepcluster.cluster_cross_entropy(Z, PROTOTYPES[None], CLUSTERS[:, None], temperature=0.1),
        np.log(K),
    ),
    "proto_nce": (
        lambda: proto_nce.proto_nce(
            Z[:, 0], PROTOTYPES, np.full(K, 0.1, np.float32), CLUSTERS, np.arange(K), np.ones(K, bool)
        ),
        np.log(B + K),
    ),
    "dino": (
        lambda: dino.dino(
            Z @ PROTOTYPES.T,
            directions(B, 2, seed=4) @ PROTOTYPES.T,
            np.zeros(K, np.float32),
            student_temperature=0.1,
            teacher_temperature=0.04,
        ),
        np.log(K),
    ),
    "barlow_twins": (lambda: barlow.barlow_twins(Z[..., :512], weight=0.0), 512),
    "byol": (lambda: (4 - 4 * cosine.swapped_cosine(Z, directions(B, 2, seed=3)), {}), 4.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_independent_embeddings_are_at_chance(name):
    compute, chance = LOSSES[name]
    loss, metrics = jax.jit(compute)()
    assert float(loss) == pytest.approx(chance, rel=LOOSE)
    if "loss_at_chance" in metrics:
        assert float(metrics["loss_at_chance"]) == pytest.approx(chance, rel=1e-5)
