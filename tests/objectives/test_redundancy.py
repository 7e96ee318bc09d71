"""Barlow Twins and VICReg: their formulas on the networks' outputs, the projector, refused arguments."""

import jax
import pytest

from radnet_jax.errors import UserError
from tests.objectives import small

NAMES = ("barlow_twins", "vicreg")


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_papers(name):
    objective, batch = small.make(name, dim=16), {"views": small.views()}
    state = small.state_of(objective, batch)
    small.assert_equals_reference(name, objective, state, batch)
    new, _ = small.stepper(objective)(state, batch)
    small.assert_equals_reference(name, objective, new, batch)
    _, aux = small.loss_of(objective, state, batch)
    assert aux.features.shape == (8, 2, 32)
    assert aux.embedding.shape == (8, 2, 16)


@pytest.mark.parametrize("name", NAMES)
def test_the_projector_has_three_layers_and_no_biases(name):
    objective = small.make(name, dim=16)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), {"views": small.views()})[0]["projector"]
    assert jax.tree.map(lambda x: x.shape, shapes) == {
        "linear1": {"kernel": (32, 16)},
        "norm1": {"scale": (16,), "bias": (16,)},
        "linear2": {"kernel": (16, 16)},
        "norm2": {"scale": (16,), "bias": (16,)},
        "linear3": {"kernel": (16, 16)},
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_needs_the_whole_batch(name):
    assert small.make(name).weight is None


@pytest.mark.parametrize(("name", "argument"), [("barlow_twins", "weight_off_diagonal"), ("vicreg", "variance")])
def test_negative_weights_are_refused(name, argument):
    with pytest.raises(UserError, match=argument):
        small.make(name, **{argument: -1.0})
