"""The objective of masks: its loss and weight, a backbone that stays as it is, groups, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax import sharding
from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError
from radnet_jax.losses import segmentation as losses
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.objectives.segmentation import LOSSES, classes
from radnet_jax.optim import make_optimizer
from radnet_jax.preprocessing import StoredPixels
from radnet_jax.step import train_step
from tests.objectives import small

STORED = StoredPixels("XR", "none", (0.0, 255.0), (32, 32), 1, "pad_area", "uint8")
CARD = DatasetCard("fake", "1", "none", (), STORED, {}, "0", segmentation=("liver", "tumour"))
DECODER = dict(name="unet", widths=(8, 8, 6, 6, 4))
SIGMOID = dict(activation="sigmoid")


def make(**kwargs):
    groups = kwargs.pop("groups", 1)
    backbone = MODELS.build("resnet10", {"base_width": 4}, groups=groups)
    card = kwargs.pop("card", CARD)
    return OBJECTIVES.build("segmentation", {"decoder": DECODER, **kwargs}, backbone=backbone, card=card, groups=groups)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (4, 32, 32)).astype(np.uint8)
    target[:, :5] = 255
    return {"image": jnp.asarray(rng.normal(size=(4, 32, 32, 3)), jnp.float32), "segmentation": jnp.asarray(target)}


@pytest.fixture(scope="module")
def state(batch):
    return small.state_of(make(), batch)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", dict(class_weights=(1.0, 3.0, 10.0))),
        ("focal", dict(gamma=1.0)),
        ("soft_dice", {}),
        ("soft_dice", dict(per_image=True)),
        ("dice_cross_entropy", {}),
    ],
)
def test_the_loss_is_that_of_its_logits(batch, state, name, options):
    objective = make(loss=name, **options)
    stats = state.model_state["batch_stats"]

    @jax.jit
    def both(state):
        logits, _, _ = objective._apply(state.params, stats, batch["image"], train=True)
        return objective.loss(state.params, state, batch, jax.random.key(0)), logits

    (loss, aux), logits = both(state)
    target = batch["segmentation"]
    if name == "dice_cross_entropy":
        want = losses.soft_dice(logits, target) + losses.cross_entropy(logits, target)
    else:
        want = getattr(losses, name)(logits, target, **options)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    known = target != 255
    np.testing.assert_allclose(
        aux.metrics["train_pixel_accuracy"], (logits.argmax(-1) == target)[known].mean(), rtol=1e-5
    )
    assert set(aux.model_state["batch_stats"]) == {"backbone", "decoder"}


def test_sigmoids_predict_the_likeliest_class_over_one_half(batch):
    objective = make(loss="binary_cross_entropy", **SIGMOID)
    state = small.state_of(objective, batch)
    assert state.params["decoder"]["head"]["kernel"].shape[-1] == 2
    out = jax.jit(objective.predict)(state.params, state.model_state, batch)
    assert out["logits"].shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(out["logits"].argmax(-1), classes(out["logits"][..., 1:], "sigmoid"))
    logits = jnp.array([[[[-1.0, -2.0], [1.0, 2.0], [3.0, 2.0]]]])
    assert classes(logits, "sigmoid").tolist() == [[[0, 2, 1]]]
    assert classes(logits, "softmax").tolist() == [[[0, 1, 0]]]


def test_the_decoder_computes_as_the_backbone_does():
    for dtype in ("float32", "bfloat16"):
        backbone = MODELS.build("resnet10", {"base_width": 4, "dtype": dtype})
        options = dict(backbone=backbone, card=CARD, groups=1)
        assert OBJECTIVES.build("segmentation", {"decoder": DECODER}, **options).decoder.dtype == dtype
        own = OBJECTIVES.build("segmentation", {"decoder": DECODER | {"dtype": "float32"}}, **options)
        assert own.decoder.dtype == "float32"


def test_a_frozen_backbone_stays_as_it_is(batch):
    objective = make(frozen=True)
    tx = make_optimizer("adamw", optax.constant_schedule(0.1), weight_decay=0.1, frozen=("^backbone/",))
    state = small.state_of(objective, batch, tx)
    new, metrics = jax.jit(lambda s, b: train_step(s, b, 0, objective=objective, tx=tx))(state, batch)
    for part in ("params", "batch_stats"):
        before, after = (s.params if part == "params" else s.model_state["batch_stats"] for s in (state, new))
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
        assert not any(jax.tree.leaves(changed["backbone"])), part
        assert all(jax.tree.leaves(changed["decoder"])), part
    assert np.isfinite(metrics["loss"])


def test_it_learns_a_batch(batch):
    target = np.random.default_rng(1).integers(0, 3, (4, 4, 4)).repeat(8, axis=1).repeat(8, axis=2)
    batch = {"image": batch["image"].at[..., 0].set(target), "segmentation": jnp.asarray(target, jnp.uint8)}
    objective = make()
    step = small.stepper(objective, optax.adam(1e-2))
    state = small.state_of(objective, batch, optax.adam(1e-2))
    values = []
    for _ in range(30):
        state, metrics = step(state, batch)
        values.append(float(metrics["loss"]))
    assert values[-1] < 0.6 * values[0]


def test_groups_have_losses_of_their_own(batch, state):
    whole, grouped = make(loss="soft_dice"), make(loss="soft_dice", groups=2)

    @jax.jit
    def run(batch):
        halves = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
        each = [whole.loss(state.params, state, half, None)[0] for half in halves]
        return grouped.loss(state.params, state, batch, None)[0], jnp.stack(each).mean()

    got, want = run(batch)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert grouped.weight is None


def test_parts_of_a_batch_add_up_where_the_loss_is_a_mean_over_pixels(batch):
    objective = make(loss="cross_entropy", class_weights=(1.0, 3.0, 10.0), frozen=True)  # no statistics in the backbone
    uneven = {**batch, "segmentation": batch["segmentation"].at[0, 5:].set(2)}
    halves = [{k: v[i : i + 2] for k, v in uneven.items()} for i in (0, 2)]
    logits = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    whole = objective._loss(logits, uneven["segmentation"])
    each = [objective._loss(logits[i : i + 2], halves[i // 2]["segmentation"]) for i in (0, 2)]
    weights = [objective.weight(half, jax.random.key(0)) for half in halves]
    np.testing.assert_allclose(whole, np.average(each, weights=weights), rtol=1e-5)
    for name in LOSSES:
        sigmoid = SIGMOID if name == "binary_cross_entropy" else {}
        assert (make(loss=name, **sigmoid).weight is None) == ("dice" in name)


@pytest.mark.parametrize("decoder", [DECODER, pytest.param(dict(name="upernet", width=8), marks=pytest.mark.slow)])
def test_one_and_eight_devices_give_the_same_and_send_no_images(batch, decoder):
    objective = make(decoder=decoder)
    batch = {k: jnp.concatenate([x, x[::-1]]) for k, x in batch.items()}
    state = small.state_of(objective, batch)

    def run(state, batch):
        value = jax.value_and_grad(lambda p: objective.loss(p, state, batch, None)[0])
        loss, gradient = value(state.params)
        return loss, optax.tree.norm(gradient)

    found = []
    for n in (1, 8):
        mesh = sharding.make_mesh(n)
        placed = jax.device_put(batch, sharding.batch_sharding(mesh))
        compiled = (
            jax.jit(run, out_shardings=sharding.replicated(mesh))
            .lower(jax.device_put(state, sharding.replicated(mesh)), placed)
            .compile()
        )
        found.append(compiled(jax.device_put(state, sharding.replicated(mesh)), placed))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=2e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=2e-3)
    assert set(sharding.collectives(compiled.as_text())) == {"all-reduce"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(card=DatasetCard("plain", "1", "none", (), STORED, {}, "0")), "needs masks and dataset plain has none"),
        (dict(loss="dice"), "unknown loss of masks"),
        (dict(activation="relu"), "unknown activation"),
        (dict(loss="binary_cross_entropy"), "of sigmoids"),
        (dict(loss="cross_entropy", **SIGMOID), "of a softmax"),
        (dict(loss="cross_entropy", class_weights=(1.0, 2.0)), r"expected 3, of background, liver, tumour"),
        (dict(loss="soft_dice", class_weights=(1.0, 2.0, 3.0)), "expected none"),
        (dict(loss="focal", gamma=-1.0), "gamma"),
        (dict(decoder=dict(name="unett")), "unknown decoder 'unett'.*unet"),
        (dict(decoder=dict(name="unet", width=8)), "no argument 'width'.*widths"),
        (dict(decoder=dict(widths=(8,))), "unknown decoder ''"),
    ],
)
def test_what_is_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        make(**kwargs)
