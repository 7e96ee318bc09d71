"""Classification: weights and priors from the counts of train, uncertain findings, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from radnet_jax.data.card import DatasetCard
from radnet_jax.data.labels import Counts
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.objectives.classification import classification
from radnet_jax.preprocessing import StoredPixels
from radnet_jax.state import TrainState

STORED = StoredPixels("XR", "none", (0.0, 255.0), (16, 16), 1, "none", "uint8")
NAMES = ("a", "b", "c")
KEY = jax.random.key(0)


def make(task="single_label", positive=(6, 3, 1), known=(10, 10, 10), **settings):
    card = DatasetCard("set", "1", task, NAMES, STORED, {"train": 10}, "f")
    backbone = MODELS.build("resnet10", {"base_width": 4}, groups=1, remat="none")
    return classification(backbone=backbone, card=card, counts=lambda: Counts(NAMES, positive, known), **settings)


def batch(mask=1.0):
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    image = rng.normal(size=(4, 16, 16, 3)).astype(np.float32)
    return {"image": image, "labels": labels, "label_mask": np.full((4, 3), mask, np.float32)}


def loss_and_logits(objective, examples, key=KEY):
    params, model_state, _ = jax.jit(objective.init)(KEY, examples)
    params["head"]["linear"]["kernel"] *= 100  # logits that differ
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, {}, (), {})
    loss, aux = jax.jit(objective.loss)(params, state, examples, key)
    kernel = np.asarray(params["head"]["linear"]["kernel"])
    return float(loss), np.asarray(aux.features)[:, 0] @ kernel


def test_weights_and_logit_adjustment_are_of_the_counts():
    objective = make(class_weights="balanced", logit_adjustment=2.0)
    loss, logits = loss_and_logits(objective, batch())
    weights = 10 / (3 * np.array([6, 3, 1]))
    log_p = log_softmax(logits + 2 * np.log([0.6, 0.3, 0.1]), axis=1)  # Menon et al., equation 10
    classes = batch()["labels"].argmax(1)
    want = -(weights[classes] * log_p[range(4), classes]).sum() / weights[classes].sum()
    assert loss == pytest.approx(want, abs=1e-5)
    assert float(objective.weight(batch(), KEY)) == pytest.approx(weights[classes].sum(), abs=1e-5)


def test_balanced_findings_count_alike_with_and_without():
    objective = make("multi_label", positive=(1, 5, 8), known=(10, 10, 9), class_weights="balanced")
    absent, present = np.array(objective.outcome_weights)
    np.testing.assert_allclose(absent * np.array([9, 5, 1]), present * np.array([1, 5, 8]))
    np.testing.assert_allclose(absent * np.array([9, 5, 1]) + present * np.array([1, 5, 8]), [10, 10, 9])


def test_uncertain_findings_are_drawn_anew_in_each_step():
    objective = make("multi_label", uncertain=(0.55, 0.85))
    examples = batch(mask=0.0)
    losses = [loss_and_logits(objective, examples, jax.random.key(i)) for i in range(3)]
    assert len({loss for loss, _ in losses}) == 3
    logits = losses[0][1]
    ends = [np.logaddexp(0, logits) - target * logits for target in (0.55, 0.85)]  # linear in the target
    for loss, _ in losses:
        assert np.minimum(*ends).mean() < loss < np.maximum(*ends).mean()
    assert float(objective.weight(examples, KEY)) == 12  # parts of a batch are weighed by what their means are over
    left_out = dataclasses.replace(objective, uncertain=())
    assert loss_and_logits(left_out, examples)[0] == 0
    assert float(left_out.weight(examples, KEY)) == 0


def test_parts_of_a_batch_come_to_the_loss_of_the_whole_also_with_soft_labels():
    objective = make("multi_label", (1, 5, 8), (10, 10, 9), uncertain=(0.7, 0.7), class_weights="balanced")
    vit = MODELS.build("vit_tiny", dict(width=8, depth=4, heads=2, patch=16, image_size=16))
    objective = dataclasses.replace(objective, backbone=vit)  # no statistics of a batch in it
    examples = batch()
    examples["label_mask"][:2, 1:] = 0  # the first half knows less than the second
    halves = [{k: v[i : i + 2] for k, v in examples.items()} for i in (0, 2)]
    (whole, _), *each = [loss_and_logits(objective, part) for part in (examples, *halves)]
    weights = [objective.weight(half, KEY) for half in halves]
    np.testing.assert_allclose(whole, np.average([loss for loss, _ in each], weights=weights), rtol=1e-5)


def test_a_head_without_bias():
    params, _, _ = jax.eval_shape(make(head_bias=False).init, KEY, batch())
    assert set(params["head"]["linear"]) == {"kernel"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "balancd"}, "class_weights.*none.*balanced.*3 numbers"),
        ({"class_weights": (1.0, 2.0)}, "3 numbers"),
        ({"class_weights": "balanced", "positive": (6, 4, 0)}, "1 of 3 classes are missing.*no labelled record of c"),
        ({"logit_adjustment": 1.0, "positive": (6, 4, 0)}, "missing"),
        ({"logit_adjustment": 1.0, "task": "multi_label", "positive": (10, 4, 1)}, "every record has a"),
        ({"uncertain": (0.2, 0.4)}, "of a multi-label task"),
        ({"task": "none"}, "needs labels and dataset set has none"),
        ({"uncertain": (0.8, 0.4), "task": "multi_label"}, "within 0 to 1"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)
