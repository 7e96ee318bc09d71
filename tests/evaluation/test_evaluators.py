"""Networks over whole splits: order, padding, BatchNorm statistics and the join with the manifest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.augment.views import center, ten_crops
from radnet_jax.data.dataset import open_split
from radnet_jax.evaluation import evaluators
from radnet_jax.models import MODELS
from radnet_jax.preprocessing import ModelInput, make_adapter

INPUT = ModelInput("CT", 3, (24, 24), ((0.0, 2000.0),), None, (0.4,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def setting(ct_dataset):
    split = open_split(ct_dataset, "val")
    backbone = MODELS.build("resnet10", {"base_width": 4})
    adapter = make_adapter(split.card.stored, INPUT)
    variables = jax.jit(backbone.init, static_argnames="train")(
        jax.random.key(0), jnp.zeros((1, 24, 24, 3)), train=False
    )
    images = jnp.asarray(np.stack([split[i]["image"] for i in range(len(split))]))
    return split, backbone, adapter, variables, images


def test_features_are_those_of_each_record_in_order(setting):
    split, backbone, adapter, variables, images = setting
    expected = backbone.apply(variables, center(images, adapter), train=False)["pooled"]
    for batch_size in (8, 16):  # 24 records: whole batches, and a last batch that is filled up
        features = evaluators.extract_features(
            backbone,
            variables["params"],
            variables["batch_stats"],
            split,
            adapter=adapter,
            batch_size=batch_size,
            mesh=sharding.make_mesh(),
        )
        np.testing.assert_allclose(features, expected, rtol=2e-4, atol=1e-5)


def test_ten_crops_are_judged_by_the_mean_of_their_probabilities(setting):
    split, _, adapter, _, images = setting
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)) * 5

    def predict(params, model_state, batch):
        features = jnp.std(batch["image"], axis=(1, 2)) * jnp.asarray([1.0, 2.0, 3.0]) + batch["image"][:, 0, 0]
        return {"features": features, "logits": features @ params}

    settings = {"adapter": adapter, "batch_size": 16, "mesh": sharding.make_mesh()}
    crops = ten_crops(images, adapter)
    each = np.stack([np.asarray(predict(weights, {}, {"image": crops[:, t]})["logits"]) for t in range(10)], axis=1)
    probabilities = np.exp(each) / np.exp(each).sum(-1, keepdims=True)
    got = evaluators.predict_split(predict, weights, {}, split, views="ten_crop", **settings)
    scores = evaluators.scores_of(got["logits"], split.card)
    np.testing.assert_allclose(scores, probabilities.mean(axis=1), atol=1e-4)
    assert np.abs(scores - probabilities[:, 4]).max() > 0.01
    got = evaluators.predict_split(predict, weights, {}, split, views="center_crop", **settings)
    np.testing.assert_allclose(got["logits"], each[:, 4], rtol=1e-3, atol=1e-3)


def test_reestimated_statistics_are_those_of_the_data(setting):
    split, backbone, adapter, variables, images = setting
    stats = evaluators.reestimate_batch_stats(
        backbone,
        variables["params"],
        variables["batch_stats"],
        split,
        adapter=adapter,
        batch_size=24,
        mesh=sharding.make_mesh(),
    )
    x = center(images, adapter)
    first = backbone.apply(
        variables, x, train=False, capture_intermediates=lambda m, _: m.name == "stem_conv", mutable=["intermediates"]
    )[1]["intermediates"]["stem_conv"]["__call__"][0]
    np.testing.assert_allclose(stats["stem_norm"]["mean"], first.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["stem_norm"]["var"], first.var((0, 1, 2)), rtol=1e-3, atol=1e-4)


def test_predictions_join_scores_with_the_manifest(setting):
    split, *_ = setting
    scores = np.eye(6)[np.arange(len(split)) % 6]
    predictions = evaluators.predictions_of({split: scores})
    table = split.manifest()
    assert list(predictions.case_id) == table["case_id"].to_pylist()
    assert set(predictions.split) == {"val"}
    assert set(predictions.facts) == {"sex", "age_band", "scanner"}
    np.testing.assert_array_equal(predictions.labels.argmax(1), table["label"].to_numpy())
    np.testing.assert_array_equal(predictions.scores, scores)
