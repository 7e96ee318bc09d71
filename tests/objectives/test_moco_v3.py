"""MoCo v3: the loss of both directions, the target's rising momentum, and the networks of its two recipes."""

import jax
import numpy as np
import optax
import pytest

from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.optim import make_optimizer
from radnet_jax.schedules import make_schedule
from tests.objectives.small import assert_equals_reference, make, state_of, stepper, views

SMALL = dict(hidden=16, dim=6)


def test_loss_is_algorithm_1_and_the_target_follows_with_a_momentum_that_rises():
    objective = make("moco_v3", **SMALL, momentum=0.5, total_steps=4)
    step, states = stepper(objective), [state_of(objective, {"views": views()})]
    jax.tree.map(
        np.testing.assert_array_equal,
        states[0].objective_state["target"]["params"],
        {name: states[0].params[name] for name in ("backbone", "projector")},
    )
    for i in range(3):
        assert_equals_reference("moco_v3", objective, states[-1], {"views": views(i)})
        states.append(step(states[-1], {"views": views(i)})[0])
        m = 1 - 0.5 * (1 + np.cos(np.pi * i / 4)) / 2
        old, new = states[-2].objective_state["target"]["params"], states[-1].objective_state["target"]["params"]
        online = {name: states[-1].params[name] for name in old}
        expected = jax.tree.map(lambda t, o, m=m: m * t + (1 - m) * o, old, online)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new, expected)


def test_batch_norms_are_those_of_the_authors():
    params = state_of(make("moco_v3", **SMALL), {"views": views()}).params
    assert {k: set(v) for k, v in params["projector"].items()} == {
        "linear1": {"kernel"},
        "norm1": {"scale", "bias"},
        "linear2": {"kernel"},
    }
    assert set(params["predictor"]) == {"linear1", "norm1", "linear2"}
    objective = make("moco_v3", **SMALL, projector_layers=3, predictor_last_norm=True)
    stats = state_of(objective, {"views": views()}).model_state["batch_stats"]
    assert set(stats["projector"]) == {"norm1", "norm2", "norm3"}
    assert set(stats["predictor"]) == {"norm1", "norm2"}


def test_the_projection_of_patches_stays_as_it_was_drawn():
    backbone = MODELS.build("vit_small", {"width": 16, "depth": 4, "heads": 2, "patch": 8, "position": "sincos"})
    objective = make("moco_v3", backbone, **SMALL, projector_layers=3, predictor_last_norm=True)
    tx = make_optimizer("adamw", make_schedule("constant", base_lr=1e-2), frozen=("backbone/patch_embed",))
    state = state_of(objective, {"views": views()}, tx)
    new, _ = stepper(objective, tx)(state, {"views": views()})
    moved = optax.tree.norm(jax.tree.map(lambda a, b: a - b, new.params["backbone"], state.params["backbone"]))
    assert moved > 0
    kernel = state.params["backbone"]["patch_embed"]["kernel"]
    np.testing.assert_array_equal(new.params["backbone"]["patch_embed"]["kernel"], kernel)
    target = new.objective_state["target"]["params"]["backbone"]
    np.testing.assert_allclose(target["patch_embed"]["kernel"], kernel, rtol=1e-6)  # a mean of equal numbers


@pytest.mark.parametrize(("changes", "match"), [(dict(temperature=0), "temperature"), (dict(momentum=1.2), "momentum")])
def test_what_cannot_work_is_refused(changes, match):
    with pytest.raises(UserError, match=match):
        make("moco_v3", **SMALL, **changes)
