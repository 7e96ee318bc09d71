"""PIRL and InfoMin: both halves of the loss, what the puzzle's order does, and what the bank and the target take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import networks
from tests.objectives.references import formulas
from tests.objectives.small import assert_equals_reference, loss_of, make, state_of, stepper, views

SMALL = {
    "pirl": dict(draws=12, projector_dim=6),
    "infomin": dict(queue=24, projector_hidden=16, projector_dim=6, momentum=0.9),
}


def batch(seed=0):
    tiles = views(seed + 100, v=9, size=8)
    index = jnp.asarray([3, 19, 0, 7, 8, 11, 4, 16])
    return {"views": views(seed), "image": views(seed)[:, 0], "tiles": tiles, "index": index}


@pytest.fixture(scope="module", params=sorted(SMALL))
def trained(request):
    objective = make(request.param, **SMALL[request.param])
    step, states = stepper(objective), [state_of(objective, batch())]
    for i in range(2):
        states.append(step(states[-1], batch(i))[0])
    return request.param, objective, states


def test_loss_is_the_mean_of_both_halves_before_and_after_updates(trained):
    name, objective, states = trained
    for i in (0, 2):
        assert_equals_reference(name, objective, states[i], batch(i))


def test_the_order_of_the_tiles_counts_and_each_image_has_its_own(trained):
    _, objective, states = trained
    _, aux = loss_of(objective, states[1], batch())
    turned = batch()
    turned["tiles"] = turned["tiles"].at[0].set(turned["tiles"][0, ::-1])
    _, other = loss_of(objective, states[1], turned)
    moved = np.abs(np.asarray(aux.embedding - other.embedding)).max(axis=-1)
    assert moved[0, 1] > 1e-3  # the embedding of the puzzle that was laid otherwise
    np.testing.assert_allclose(moved[:, 0], 0, atol=1e-5)  # of the images
    np.testing.assert_allclose(moved[1:, 1], 0, atol=1e-4)  # of the other puzzles


def test_every_head_is_trained_and_new_in_each_run(trained):
    _, objective, states = trained
    assert set(states[0].params) == {"backbone", "projector", "jigsaw"}
    for module in states[0].params:
        pairs = zip(*(jax.tree.leaves(s.params[module]) for s in states[:2]), strict=True)
        assert any((a != b).any() for a, b in pairs)
    assert objective.heads == r"(projector|jigsaw)/.*"


def test_the_image_and_not_the_puzzle_moves_its_row_of_the_bank():
    objective = make("pirl", **SMALL["pirl"])
    state = state_of(objective, batch())
    _, aux = loss_of(objective, state, batch())
    stats = state.model_state["batch_stats"]
    outputs, _ = networks.apply(objective.modules, state.params, stats, batch()["image"], train=True)
    rows, index = formulas.bank_rows(state), np.asarray(batch()["index"])
    new = np.asarray(aux.objective_state["bank"]["rows"])
    expected = formulas.unit(0.5 * rows[index] + 0.5 * formulas.unit(outputs["projector"]))
    np.testing.assert_allclose(new[index], expected, atol=2e-5)


def test_the_target_of_infomin_has_no_head_for_puzzles(trained):
    name, _, states = trained
    if name == "infomin":
        assert set(states[2].objective_state["target"]["params"]) == {"backbone", "projector"}
        assert int(states[2].objective_state["queue"]["next"]) == 16


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("pirl", dict(draws=0), "draws"),
        ("pirl", dict(bank_dtype="float16"), "bank_dtype"),
        ("infomin", dict(queue=9), "a multiple of 8"),
        ("infomin", dict(temperature=0), "temperature"),
    ],
)
def test_what_cannot_work_is_refused(name, changes, match):
    with pytest.raises(UserError, match=match):
        make(name, **{**SMALL[name], **changes})
