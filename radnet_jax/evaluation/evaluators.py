"""Networks over whole splits: features, logits, and the predictions that the ledger keeps."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree
import numpy as np
from scipy.special import expit, softmax

from radnet_jax import sharding
from radnet_jax.augment.views import CENTRE, center, ten_crops
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split
from radnet_jax.data.pipeline import eval_batches
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.losses.classification import mean_of_views
from radnet_jax.preprocessing import Adapter

Predict = Callable[[PyTree, PyTree, dict[str, Array]], dict[str, Array]]
"""(params, model_state, batch with "image") -> outputs by name, each [b ...]."""

NO_FACT = (
    "split", "index", "case_id", "patient", "series", "slice", "position", "source", "phash", "rows", "columns",
    "row_spacing", "column_spacing", "thickness", "label", "labels", "label_mask",
)  # fmt: skip


VIEWS = ("whole", "center_crop", "ten_crop")


@functools.lru_cache(maxsize=64)
def _compiled(
    predict: Predict, adapter: Adapter, mesh: Mesh, views: str, multi_label: bool
) -> Callable[..., dict[str, Array]]:
    def run(params: PyTree, model_state: PyTree, image: Array) -> dict[str, Array]:
        if views == "whole":
            return predict(params, model_state, {"image": center(image, adapter)})
        crops = ten_crops(image, adapter)
        if views == "center_crop":
            return predict(params, model_state, {"image": crops[:, CENTRE]})
        # One crop after another: the memory of the network is that of one, and none is sent between devices.
        each = jax.lax.map(lambda crop: predict(params, model_state, {"image": crop}), crops.swapaxes(0, 1))
        out = {k: v.mean(axis=0) for k, v in each.items()}
        return out | {"logits": mean_of_views(each["logits"].swapaxes(0, 1), multi_label=multi_label)}

    # Replicated outputs: every process holds the whole split's scores, so metrics are computed on all of it at once.
    return jax.jit(run, out_shardings=sharding.replicated(mesh))


@functools.lru_cache(maxsize=64)
def predict_of(objective: Any) -> Predict:
    """Returns the objective's `predict`; equal objectives give the same function, hence one compilation."""
    return objective.predict


def predict_split(
    predict: Predict,
    params: PyTree,
    model_state: PyTree,
    split: Split,
    *,
    adapter: Adapter,
    batch_size: int,
    mesh: Mesh,
    views: str = "whole",
) -> dict[str, np.ndarray]:
    """Runs `predict` over a split, in record order, and adds its `labels` and `label_mask`.

    Args:
      predict: hashable; equal functions share one compilation.
      params: of the network.
      model_state: of the network.
      split: the records.
      adapter: the preprocessing contract.
      batch_size: global.
      mesh: where to compute.
      views: "whole" image; "center_crop" of the image resized to 256 / 224 of the input; or "ten_crop" of it, corners,
        centre and their mirror images: "logits" are then those of the mean of the ten probabilities, which is what the
        transfer benchmark (Hosseinzadeh Taher et al. 2021) averages, and anything else the mean of the ten.
    """
    compiled = _compiled(predict, adapter, mesh, views, split.card.task == "multi_label")
    collected: list[dict[str, Array]] = []
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    for batch in eval_batches(split, batch_size=batch_size, **processes):
        image = sharding.put_batch({"image": batch["image"]}, mesh)["image"]
        collected.append(compiled(params, model_state, image))
    n = len(split)
    outputs = {k: np.concatenate([np.asarray(c[k]) for c in collected])[:n] for k in collected[0]}
    labels, mask = split.all_labels()
    return outputs | {"labels": labels, "label_mask": mask}


def extract_features(
    backbone: Any,
    params: PyTree,
    batch_stats: PyTree,
    split: Split,
    *,
    adapter: Adapter,
    batch_size: int,
    mesh: Mesh,
) -> Float[np.ndarray, "n d"]:
    """Returns the backbone's features of every record of a split; the backbone in eval mode."""
    outputs = predict_split(
        _features_of(backbone), params, batch_stats, split, adapter=adapter, batch_size=batch_size, mesh=mesh
    )
    return outputs["features"]


@functools.lru_cache(maxsize=64)
def _features_of(backbone: Any) -> Predict:
    def predict(params: PyTree, batch_stats: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
        out = backbone.apply({"params": params, "batch_stats": batch_stats}, batch["image"], train=False)
        return {"features": out["pooled"]}

    return predict


def reestimate_batch_stats(
    backbone: Any, params: PyTree, batch_stats: PyTree, split: Split, *, adapter: Adapter, batch_size: int, mesh: Mesh
) -> PyTree:
    """Returns BatchNorm statistics averaged over batches of a whole split, as if the backbone had seen just it.

    A randomly initialised backbone has mean 0 and variance 1 in every BatchNorm, which is not what its inputs are;
    features of a random network depend much on which of the two is used. A backbone without BatchNorm has none.
    """
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    step = _batch_stats_of(backbone, adapter, mesh)
    rows = _spread_rows(len(split), batch_size, mesh)
    total = None
    for batch in rows:
        share = np.split(batch, jax.process_count())[jax.process_index()]
        image = sharding.put_batch({"image": np.stack([split[int(i)]["image"] for i in share])}, mesh)["image"]
        new = step(params, batch_stats, image)
        total = new if total is None else jax.tree.map(jax.numpy.add, total, new)
        # One batch in flight: on a host with more devices than cores, programs that wait for each other's parts can
        # take all of its threads and stand still.
        jax.block_until_ready(total)
    return jax.tree.map(lambda x: x / len(rows), total)


def _spread_rows(n: int, batch_size: int, mesh: Mesh) -> list[np.ndarray]:
    """Returns equal batches that cover a split in a fixed shuffled order (records may be sorted by class).

    The last rows of a cover that does not come out even are taken from the start of the order again.
    """
    batch_size = max(min(batch_size, n) // mesh.size, 1) * mesh.size
    count = -(-n // batch_size)
    order = np.resize(np.random.default_rng(0).permutation(n), -(-n // (count * mesh.size)) * count * mesh.size)
    return np.split(order, count)


@functools.lru_cache(maxsize=16)
def _batch_stats_of(backbone: Any, adapter: Adapter, mesh: Mesh) -> Callable[..., PyTree]:
    memoryless = backbone.clone(norm_momentum=0.0)  # running statistics become those of the batch

    def run(params: PyTree, batch_stats: PyTree, image: Array) -> PyTree:
        variables = {"params": params, "batch_stats": batch_stats}
        _, updates = memoryless.apply(variables, center(image, adapter), train=True, mutable=["batch_stats"])
        return updates["batch_stats"]

    return jax.jit(run, out_shardings=sharding.replicated(mesh))


def scores_of(logits: Float[np.ndarray, "n k"], card: DatasetCard) -> Float[np.ndarray, "n k"]:
    """Returns probabilities: softmax for single-label tasks, sigmoid by finding for multi-label ones; float64."""
    logits = np.asarray(logits, np.float64)
    return expit(logits) if card.task == "multi_label" else softmax(logits, axis=-1)


def predictions_of(scores: dict[Split, Float[np.ndarray, "n k"]]) -> Predictions:
    """Joins scores with the manifests: case ids, hashed patients, kept facts, labels and masks."""
    tables, labels, masks = [], [], []
    for split in scores:
        tables.append(split.manifest())
        split_labels, split_mask = split.all_labels()
        labels.append(split_labels)
        masks.append(split_mask)
    facts = [c for c in tables[0].column_names if c not in NO_FACT]

    def column(name: str) -> list[Any]:
        return [value for table in tables for value in table[name].to_pylist()]

    return Predictions(
        split=column("split"),
        case_id=column("case_id"),
        patient=column("patient"),
        scores=np.concatenate(list(scores.values())),
        labels=np.concatenate(labels),
        label_mask=np.concatenate(masks),
        facts={name: column(name) for name in facts},
    )
