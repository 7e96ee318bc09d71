"""SimCLR's objective: the paper's formula, chance level, and one pass for both views."""

import jax
import jax.numpy as jnp
import numpy as np

from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.state import TrainState


def make(temperature=0.1):
    backbone = MODELS.build("resnet10", {"base_width": 4})
    return OBJECTIVES.build(
        "simclr", {"temperature": temperature, "projector_hidden": 16, "projector_dim": 8}, backbone=backbone
    )


def loss_of(objective, views):
    params, model_state, objective_state = jax.jit(objective.init)(jax.random.key(0), {"views": views})
    state = TrainState(jnp.int32(0), params, model_state, objective_state, (), {})
    return jax.jit(objective.loss)(params, state, {"views": views}, jax.random.key(1)), state


def equation_1(z, temperature):
    """Chen et al. 2020, equation 1, written out with loops."""
    z = np.asarray(z, np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    n = len(z)
    rows = [(i, v) for i in range(n) for v in (0, 1)]
    total = 0.0
    for i, v in rows:
        similarity = {(j, w): z[i, v] @ z[j, w] / temperature for j, w in rows if (j, w) != (i, v)}
        total += -similarity[i, 1 - v] + np.log(np.sum(np.exp(list(similarity.values()))))
    return total / len(rows)


def test_loss_is_equation_1_of_the_embeddings():
    objective = make()
    views = jax.random.normal(jax.random.key(2), (8, 2, 24, 24, 3))
    (loss, _), state = loss_of(objective, views)
    stats = state.model_state["batch_stats"]
    folded = views.reshape(16, 24, 24, 3)
    out, _ = objective.backbone.apply(
        {"params": state.params["backbone"], "batch_stats": stats["backbone"]},
        folded,
        train=True,
        mutable=["batch_stats"],
    )
    z, _ = objective.projector.apply(
        {"params": state.params["projector"], "batch_stats": stats["projector"]},
        out["pooled"],
        train=True,
        mutable=["batch_stats"],
    )
    np.testing.assert_allclose(loss, equation_1(z.reshape(8, 2, -1), 0.1), rtol=1e-4)


def test_starts_near_chance():
    # Embeddings of a random network on noise are spread by the last BatchNorm: near log(2N - 1) at a high temperature.
    views = jax.random.normal(jax.random.key(3), (32, 2, 24, 24, 3))
    (loss, _), _ = loss_of(make(temperature=10.0), views)
    np.testing.assert_allclose(loss, np.log(2 * 32 - 1), atol=0.05)


def test_equal_objectives_are_one_compilation():
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(temperature=0.2)
