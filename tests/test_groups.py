"""`config.groups`: the per-device behaviour of a run without synchronisation, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding, train
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.parts import assemble, make_objective, make_recipe
from radnet_jax.state import TrainState
from tests import every_objective, tiny
from tests.every_objective import trained

GROUPS = 8


def simclr(groups):
    kwargs = {"temperature": 0.5, "projector_hidden": 16, "projector_dim": 8}
    backbone = MODELS.build("resnet10", {"base_width": 4}, groups=groups)
    return OBJECTIVES.build("simclr", kwargs, backbone=backbone, groups=groups)


def of_batch(objective, state, views):
    """Loss and new statistics, and the gradient."""

    def loss(params):
        value, aux = objective.loss(params, state, {"views": views}, jax.random.key(0))
        return value, (aux.model_state, aux.metrics["loss_at_chance"])

    return jax.value_and_grad(loss, has_aux=True)(state.params)


@pytest.fixture(scope="module")
def problem():
    scale = np.linspace(0.5, 2, 64)[:, None, None, None, None]  # no two groups are alike
    views = jnp.asarray(np.random.default_rng(0).normal(0, scale, (64, 2, 32, 32, 3)), jnp.float32)
    params, model_state, _ = jax.jit(simclr(1).init)(jax.random.key(0), {"views": views})
    return TrainState(jnp.int32(0), params, model_state, {}, (), {}), views


def assert_close(got, want, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0, err_msg=str(path))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_groups_are_a_loop_over_the_parts_of_the_batch(problem, devices):
    state, views = problem
    chunk = jax.jit(functools.partial(of_batch, simclr(1)))
    loop = [chunk(state, part) for part in jnp.split(views, GROUPS)]
    mean = functools.partial(jax.tree.map, lambda *x: sum(x) / GROUPS)
    mesh = sharding.make_mesh(devices)
    divided = jax.device_put(views, sharding.batch_sharding(mesh))
    (loss, (stats, chance)), gradient = jax.jit(functools.partial(of_batch, simclr(GROUPS)))(
        sharding.replicate(state, mesh), divided
    )
    np.testing.assert_allclose(loss, mean(*[value for (value, _), _ in loop]), atol=1e-5)
    assert_close(gradient, mean(*[g for _, g in loop]), 1e-5)
    assert_close(stats, loop[0][0][1][0], 1e-5)  # those of the first device
    np.testing.assert_allclose(chance, np.log(2 * 64 // GROUPS - 1))
    whole, _ = chunk(state, views)
    assert abs(whole[0] - loss) > 0.1


def test_a_group_on_each_device_needs_no_statistics_or_negatives_of_others(problem):
    """The forward pass sends nothing but the mean of the loss and accuracy, and the running statistics of the first."""
    state, views = problem
    mesh = sharding.make_mesh(8)
    args = sharding.replicate(state, mesh), jax.device_put(views, sharding.batch_sharding(mesh))

    def forward(groups, statistics=True):
        def loss(state, views):
            value, aux = simclr(groups).loss(state.params, state, {"views": views}, jax.random.key(0))
            return value, aux.model_state if statistics else None

        compiled = jax.jit(loss, out_shardings=sharding.replicated(mesh)).lower(*args).compile()
        return sharding.collectives(compiled.as_text())

    channels = jax.tree.map(lambda x: x.nbytes, state.model_state)
    assert set(forward(GROUPS, statistics=False)) == {"all-reduce"}
    assert max(forward(GROUPS, statistics=False)["all-reduce"]) == 4
    assert set(forward(GROUPS)) == {"all-reduce"}
    assert sum(forward(GROUPS)["all-reduce"]) <= sum(jax.tree.leaves(channels)) + 16
    assert max(forward(1, statistics=False)["all-reduce"]) > 4
    assert "all-gather" in forward(1)


@pytest.mark.parametrize("name", ["simclr", "classification"])
def test_a_run_in_groups_is_the_same_on_any_devices(ct_dataset, name):
    config = every_objective.config(name, ct_dataset, groups=GROUPS)
    one, two, eight = (trained(config, devices) for devices in (1, 2, 8))
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-4)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=2e-4)
    whole = trained(every_objective.config(name, ct_dataset), 8)
    assert abs(whole.losses[0] - eight.losses[0]) > 1e-3
    flops = [run.step.cost_analysis()["flops"] for run in (one, eight)]
    assert flops[1] < 1.5 * flops[0] / 8
    sent, before = (sharding.collectives(run.step.as_text()) for run in (eight, whole))
    assert set(sent) == {"all-reduce"}
    assert len(sent["all-reduce"]) < len(before["all-reduce"])


def test_draws_are_shared_in_groups_but_where_the_recipe_says_otherwise(ct_dataset):
    for changes, groups in (
        (dict(), 0),
        (dict(groups=4), 4),
        (dict(groups=4, augment=dict(name="ct", groups=0)), 0),
        (dict(augment=dict(name="radnet_published_ct")), 8),
        (dict(groups=4, augment=dict(name="radnet_published_ct")), 4),
    ):
        config = every_objective.config("simclr", ct_dataset, **changes)
        assert make_recipe(config, assemble(config)).groups == groups


def test_a_published_recipe_trains(ct_dataset, tmp_path):
    augment = dict(name="radnet_published_ct")
    config = every_objective.config("simclr", ct_dataset, batch_size=16, groups=8, augment=augment)
    train.run(config, tmp_path)
    assert (tmp_path / "run.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(groups=0), "0 for 64 rows"),
        (dict(groups=3), "3 for 64 rows.*a divisor of 64"),
        (dict(groups=64), "64 for 64 rows.*at most 32"),
        (dict(groups=12, batch_size=96), "12 groups on 8 devices"),
        (dict(groups=8, accumulate=8), "8 for 8 rows"),
    ],
)
def test_groups_that_do_not_fit_are_refused(ct_dataset, changes, message):
    with pytest.raises(UserError, match=message):
        assemble(every_objective.config("simclr", ct_dataset, **changes))


def test_remat_is_for_backbones_that_have_it(ct_dataset, monkeypatch):
    config = every_objective.config("simclr", ct_dataset, remat="blocks")
    assert assemble(config).backbone.remat == "blocks"
    monkeypatch.setitem(MODELS._factories, "resnet10", lambda *, base_width: None)
    with pytest.raises(UserError, match=r"config.remat.*'resnet10' keeps all"):
        assemble(config)


def test_a_loss_of_the_whole_batch_that_knows_no_groups_is_refused(ct_dataset, monkeypatch):
    config = every_objective.config("simclr", ct_dataset, groups=8)
    parts = assemble(config)
    with_groups = OBJECTIVES.get("simclr")

    def without(*, backbone, temperature, projector_hidden, projector_dim):
        return with_groups(backbone=backbone, temperature=temperature)

    monkeypatch.setitem(OBJECTIVES._factories, "simclr", without)
    with pytest.raises(UserError, match="loss of 'simclr' is not defined by parts of a batch; got 8"):
        make_objective(config, parts)
    make_objective(tiny.change(config, groups=1), parts)
