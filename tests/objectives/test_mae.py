"""MAE: the formula, what the encoder sees, masks of each example, refused backbones and ratios."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import rng
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.models.masked import permuted
from radnet_jax.objectives.mae import shuffles
from radnet_jax.parts import assemble
from tests import every_objective, tiny
from tests.objectives import small

VIT = dict(width=16, depth=4, heads=2, patch=4, image_size=16, position="sincos")
OPTIONS = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)


def make(pool="mean", **options):
    return small.make("mae", backbone=MODELS.build("vit_tiny", {**VIT, "pool": pool}), **OPTIONS | options)


@pytest.fixture(scope="module")
def objective():
    return make()


@pytest.fixture(scope="module")
def batch():
    return {"image": small.views()[:, 0]}


@pytest.fixture(scope="module")
def state(objective, batch):
    return small.state_of(objective, batch)


def test_loss_is_the_papers(objective, state, batch):
    small.assert_equals_reference("mae", objective, state, batch)
    new, _ = small.stepper(objective)(state, batch)
    small.assert_equals_reference("mae", objective, new, batch)


def test_each_example_has_its_own_permutation():
    order, restore = shuffles(jax.random.key(0), 32, 16)
    assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(16), (32, 1)))
    assert np.array_equal(
        np.take_along_axis(np.asarray(order), np.asarray(restore), 1), np.tile(np.arange(16), (32, 1))
    )
    assert len({tuple(row) for row in np.asarray(order)}) == 32
    first = np.asarray(shuffles(jax.random.key(1), 4000, 8)[0])[:, 0]
    np.testing.assert_allclose(np.bincount(first, minlength=8) / 4000, 1 / 8, atol=0.03)


def test_the_gradient_of_a_permutation_is_that_of_taking_rows():
    order, restore = shuffles(jax.random.key(0), 5, 6)
    x, weights = (jax.random.normal(jax.random.key(i), (5, 6, 3)) for i in (1, 2))

    def ours(x):
        return jnp.sum(weights * permuted(x, order, restore) ** 2)

    def plain(x):
        return jnp.sum(weights * jnp.take_along_axis(x, order[:, :, None], axis=1) ** 2)

    (value, gradient), (wanted, expected) = jax.value_and_grad(ours)(x), jax.value_and_grad(plain)(x)
    assert float(value) == float(wanted)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_masked_pixels_reach_the_loss_as_targets_only(objective, state, batch):
    # The encoder does not see them: the features are the same whatever they are.
    _, restore = shuffles(jax.random.key(1), 8, 16)
    masked = np.asarray(restore >= 4).reshape(8, 4, 4).repeat(4, 1).repeat(4, 2)[..., None]
    other = {"image": jnp.where(masked, 3.0, batch["image"])}
    (loss, aux), (other_loss, other_aux) = (small.loss_of(objective, state, b) for b in (batch, other))
    np.testing.assert_allclose(other_aux.features, aux.features, atol=1e-6)
    assert abs(float(loss) - float(other_loss)) > 1e-3


def test_only_visible_patches_are_encoded(objective, batch):
    lengths = set()

    def record(next_fun, args, kwargs, context):
        if context.method_name == "encode":
            lengths.add(args[0].shape[1])
        return next_fun(*args, **kwargs)

    state = small.state_of(objective, batch)
    with nn.intercept_methods(record):
        objective.loss(state.params, state, batch, jax.random.key(0))
    assert lengths == {4}  # a quarter of 16


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_features_are_pooled_as_the_backbone_does(batch, pool):
    objective = make(pool)
    state = small.state_of(objective, batch)
    _, aux = small.loss_of(objective, state, batch)
    assert aux.features.shape == (8, 1, 16)
    assert objective.predict(state.params, state.model_state, batch)["features"].shape == (8, 16)


def test_parts_of_a_batch_are_the_mean_of_their_losses(objective, state, batch):
    step = small.stepper(objective, accumulate=2)
    _, metrics = step(state, batch)
    key = rng.stream(0, "loss", 0)
    halves = [
        objective.loss(state.params, state, {"image": batch["image"][i::2]}, jax.random.fold_in(key, i))[0]
        for i in (0, 1)
    ]
    np.testing.assert_allclose(metrics["loss"], np.mean(halves), rtol=1e-5)


def test_other_backbones_are_refused_by_name():
    with pytest.raises(UserError, match="ResNet"):
        small.make("mae")


def test_another_name_in_a_config_is_refused_before_the_arguments_of_the_vit(ct_dataset):
    config = every_objective.config("mae", ct_dataset)
    config = tiny.change(config, backbone=config.backbone.to_dict() | {"name": "resnet18"})
    with pytest.raises(UserError, match=r"'mae' works with a ViT only; got config.backbone.name=resnet18.*vit_base"):
        assemble(config)


def test_bad_ratios_are_refused(batch):
    with pytest.raises(UserError, match="mask_ratio"):
        make(mask_ratio=1.0)
    with pytest.raises(UserError, match="leaves no patch"):
        small.state_of(make(mask_ratio=0.99), batch)
    with pytest.raises(UserError, match="decoder_width"):
        make(decoder_width=10)
