"""Any objective with any backbone: both are found by their names. Traced at their size for 224 px, and not compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax.data.card import DatasetCard
from radnet_jax.data.labels import Counts
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.preprocessing import StoredPixels
from radnet_jax.state import TrainState
from radnet_jax.step import train_step
from tests.models.test_contract import SMALLEST, small

B = 256
STORED = StoredPixels("XR", "none", (0.0, 255.0), (256, 256), 1, "none", "uint8")
CARD = DatasetCard("set", "1", "multi_label", ("a", "b"), STORED, {}, "0", segmentation=("lung",))
ARGUMENTS = {"segmentation": dict(decoder=dict(name="upernet"))}
VITS = tuple(name for name in MODELS.names() if name.startswith("vit"))
# What does not make sense: whose backbones are not among these, and what is said of the others.
ONLY = {"mae": (VITS, "mae shows its backbone some of an image's patches.*expected a vision transformer.*vit_base")}
TX = optax.sgd(0.1)


def make(name, backbone, **arguments):
    return OBJECTIVES.build(
        name,
        ARGUMENTS.get(name, {}) | arguments,
        backbone=backbone,
        card=CARD,
        counts=lambda: Counts(CARD.labels, (3, 4), (9, 9)),
        num_examples=1_281_167,
        batch_size=B,
        total_steps=1000,
        steps_per_epoch=100,
        local_views=2 if "local_views" in OBJECTIVES.parameters(name) else 0,
        groups=1,
    )


def shapes_of_a_batch(objective, size, small_size):
    made = {
        "image": (size, size, 3),
        "views": (2, size, size, 3),
        "local_views": (2, small_size, small_size, 3),
        "tiles": (9, small_size, small_size, 3),
        "segmentation": (size, size),
        "labels": (2,),
        "label_mask": (2,),
        "index": (),
    }
    whole = {"segmentation": jnp.uint8, "index": jnp.int32}
    return {k: jax.ShapeDtypeStruct((B, *made[k]), whole.get(k, jnp.float32)) for k in objective.requires}


def traced(objective, size, small_size):
    """The shapes of a state, and of what a step makes of it."""
    batch = shapes_of_a_batch(objective, size, small_size)

    def start(batch):
        params, model_state, objective_state = objective.init(jax.random.key(0), batch)
        state = TrainState(jnp.int32(0), params, model_state, objective_state, TX.init(params), {})
        return state.replace(objective_state=objective.begin(state))

    state = jax.eval_shape(start, batch)
    step = functools.partial(train_step, objective=objective, tx=TX)
    new, metrics = jax.eval_shape(lambda state, batch: step(state, batch, 0), state, batch)
    image = jax.ShapeDtypeStruct((B, size, size, 3), jnp.float32)
    outputs = jax.eval_shape(objective.predict, state.params, state.model_state, {"image": image})
    return state, new, metrics, outputs


def assert_trains(objective, size, small_size):
    state, new, metrics, outputs = traced(objective, size, small_size)
    assert jax.tree.structure(state) == jax.tree.structure(new)
    jax.tree.map(lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), state, new)
    assert metrics["loss"].shape == ()
    assert outputs["features"].shape == (B, objective.backbone.width)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_each_is_built_with_each_backbone_or_refuses_it(name):
    works, message = ONLY.get(name, (MODELS.names(), ""))
    for backbone in map(MODELS.build, works):
        assert make(name, backbone).backbone == backbone
    for backbone in {*MODELS.names()} - {*works}:
        with pytest.raises(UserError, match=message):
            make(name, MODELS.build(backbone))


def some(pairs):
    """For parametrize: the pairs of which one in each test run has each objective and each kind; others are slow."""
    quick = {(name, SMALLEST[i % len(SMALLEST)]) for i, name in enumerate(OBJECTIVES.names())}
    return [pair if pair in quick else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]


PAIRS = [(name, kind) for name in OBJECTIVES.names() for kind in SMALLEST if kind in ONLY.get(name, (SMALLEST,))[0]]


@pytest.mark.parametrize(("name", "kind"), some(PAIRS))
def test_each_trains_with_each_kind_of_backbone(name, kind):
    assert_trains(make(name, small(kind)), size=64, small_size=32)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", MODELS.names())
def test_each_backbone_at_its_size(backbone):
    assert_trains(make("dino", MODELS.build(backbone)), size=224, small_size=96)


@pytest.mark.parametrize("name", VITS)
def test_a_unet_on_maps_of_one_stride_is_refused(name):
    objective = make("segmentation", MODELS.build(name, dict(depth=4)), decoder=dict(name="unet"))
    with pytest.raises(UserError, match=r'a U-Net needs a backbone with maps of several strides.*"upernet"'):
        jax.eval_shape(objective.init, jax.random.key(0), shapes_of_a_batch(objective, 224, 96))


def test_all_kinds_are_here():
    kinds = {name.split("_")[0].rstrip("0123456789") for name in MODELS.names()}
    assert sorted(kinds) == sorted(name.split("_")[0].rstrip("0123456789") for name in SMALLEST)
