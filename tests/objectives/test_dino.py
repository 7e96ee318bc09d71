"""DINO: the formula with local views, centre, schedules, the frozen last layer, and the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import kept_network, networks
from tests.objectives import small

OPTIONS = dict(outputs=12, hidden=16, bottleneck=8, local_views=2, momentum=0.9, temperature_epochs=1)


@pytest.fixture(scope="module")
def objective():
    return small.make("dino", **OPTIONS)


@pytest.fixture(scope="module")
def batch():
    return {"views": small.views(), "local_views": small.views(seed=1, size=8)}


@pytest.fixture(scope="module")
def state(objective, batch):
    return small.state_of(objective, batch)


@pytest.fixture(scope="module")
def step(objective):
    return small.stepper(objective)


def test_loss_is_the_papers(objective, state, batch, step):
    small.assert_equals_reference("dino", objective, state, batch)
    small.assert_equals_reference("dino", objective, step(step(state, batch)[0], batch)[0], batch, rtol=3e-5)


def test_the_projectors_norm_is_of_all_views_as_in_the_authors_code(batch):
    normed = small.make("dino", **OPTIONS | {"norm": True})
    small.assert_equals_reference("dino", normed, small.state_of(normed, batch), batch)


def test_the_last_layer_is_frozen_for_an_epoch(state, batch, step):
    first, _ = step(state, batch)
    np.testing.assert_array_equal(first.params["last_layer"]["kernel"], state.params["last_layer"]["kernel"])
    assert np.abs(first.params["projector"]["linear1"]["kernel"] - state.params["projector"]["linear1"]["kernel"]).max()
    fifth, _ = step(state.replace(step=jnp.int32(5)), batch)
    assert np.abs(fifth.params["last_layer"]["kernel"] - state.params["last_layer"]["kernel"]).max() > 0


def test_the_teachers_temperature_rises(objective):
    values = [float(objective.teacher_temperature(jnp.int32(step))) for step in (0, 2, 5, 9)]
    np.testing.assert_allclose(values, [0.04, 0.052, 0.07, 0.07], rtol=1e-6)
    constant = small.make("dino", **OPTIONS | {"temperature_epochs": 0})
    assert float(constant.teacher_temperature(jnp.int32(0))) == pytest.approx(0.07)


def test_the_centre_moves_after_the_loss(objective, state, batch):
    _, aux = small.loss_of(objective, state, batch)
    target = state.objective_state["target"]
    out, _ = networks.apply(
        objective.modules, target["params"], target["batch_stats"], networks.fold(batch["views"]), train=True
    )
    want = 0.1 * np.float64(out["last_layer"]).mean(0)  # from zeros
    np.testing.assert_allclose(aux.objective_state["centre"], want, rtol=1e-4, atol=1e-6)


def test_the_teacher_follows_all_networks(state, batch, step):
    new, _ = step(state, batch)
    target, before = new.objective_state["target"], state.objective_state["target"]
    assert set(target["params"]) == {"backbone", "projector", "last_layer"}
    jax.tree.map(
        lambda t, o, got: np.testing.assert_allclose(got, 0.9 * t + 0.1 * o, atol=1e-6),
        before["params"],
        new.params,
        target["params"],
    )


def test_the_teacher_is_what_is_kept(objective, state, batch, step):
    new, _ = step(state, batch)
    kept = objective.predict(*kept_network(objective, new), {"image": batch["views"][:, 0]})["features"]
    target = new.objective_state["target"]
    backbone = {"backbone": objective.backbone}
    want, _ = networks.apply(backbone, target["params"], target["batch_stats"], batch["views"][:, 0], train=False)
    np.testing.assert_array_equal(kept, want["backbone"])
    students = objective.predict(new.params, new.model_state, {"image": batch["views"][:, 0]})["features"]
    assert np.abs(students - kept).max() > 1e-3


def test_outputs_are_cosines_of_unit_rows(objective):
    variables = objective.last_layer.init(jax.random.key(0), jnp.ones((1, 8)))
    x = jax.random.normal(jax.random.key(1), (5, 8))
    kernel = np.float64(variables["params"]["kernel"])
    want = (np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(objective.last_layer.apply(variables, x), want, atol=1e-6)
    longer = jax.tree.map(lambda k: 3 * k, variables)
    np.testing.assert_allclose(objective.last_layer.apply(longer, x), want, atol=1e-6)


def test_features_and_embedding_are_of_all_views(objective, state, batch):
    _, aux = small.loss_of(objective, state, batch)
    assert aux.features.shape == (8, 4, 32)
    assert aux.embedding.shape == (8, 4, 8)


@pytest.mark.parametrize(("name", "value"), [("student_temperature", 0.0), ("centre_momentum", 1.5)])
def test_bad_arguments_are_refused(name, value):
    with pytest.raises(UserError, match=name.replace("_", "[_ ]")):
        small.make("dino", **OPTIONS | {name: value})
