"""A finished fine-tuning, ready to be used on other images: its network, its weights and its contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float, PyTree, UInt8
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import checkpoint, records, sharding, trees
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split
from radnet_jax.data.labels import Counts
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger, segmentation
from radnet_jax.parts import Parts, make_backbone, make_objective, plain
from radnet_jax.preprocessing import Adapter, ModelInput, StoredPixels, make_adapter

_OF_WEIGHTS = {"average": "aux/average/"}  # where a checkpoint keeps weights that are not the last ones


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run that has a head.

    Attributes:
      record: its run.json.
      config: of the run.
      card: what it was trained on, without its records.
      model_input: what it expects to see.
      objective: the network, with `predict`.
      params: the weights that were judged.
      model_state: likewise.
      rules: how masks are predicted; None where it gives scores.
    """

    record: Mapping[str, Any]
    config: ConfigDict
    card: DatasetCard
    model_input: ModelInput
    objective: Any
    params: PyTree
    model_state: PyTree
    rules: segmentation.Rules | None

    def adapter_for(self, stored: StoredPixels) -> Adapter:
        """Returns the way from other stored pixels to the model, see `adapter_for`."""
        return adapter_for(self.record, self.config, self.card, self.model_input, stored)

    def scores(self, split: Split, adapter: Adapter, *, batch_size: int, mesh: Mesh) -> Float[np.ndarray, "n k"]:
        """Returns the probabilities of each record of a split."""
        return evaluators.scores_of(self.predict(split, adapter, batch_size=batch_size, mesh=mesh)["logits"], self.card)

    def predict(self, split: Any, adapter: Adapter, *, batch_size: int, mesh: Mesh) -> dict[str, Any]:
        """Runs the network over a split, or what looks like one; see `evaluators.predict_split`."""
        params, model_state = sharding.replicate((self.params, self.model_state), mesh)
        return evaluators.predict_split(
            evaluators.predict_of(self.objective),
            params,
            model_state,
            split,
            adapter=adapter,
            batch_size=batch_size,
            mesh=mesh,
            views=self.config.views.judge,
        )

    def judged_masks(
        self, split: Split, adapter: Adapter, *, batch_size: int, mesh: Mesh, reading: segmentation.Reading
    ) -> ledger.Predictions:
        """Returns the judged masks of another site's split; see `segmentation.predict_masks`."""
        assert self.rules is not None
        params, model_state = sharding.replicate((self.params, self.model_state), mesh)
        return segmentation.predict_masks(
            evaluators.predict_of(self.objective),
            params,
            model_state,
            split,
            rules=self.rules,
            adapter=adapter,
            batch_size=batch_size,
            mesh=mesh,
            reading=reading,
        )

    def masks(
        self, source: Any, adapter: Adapter, *, batch_size: int, mesh: Mesh
    ) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """Yields the mask of each image in turn, of the stored size; see `segmentation.predict_slices`."""
        assert self.rules is not None
        params, model_state = sharding.replicate((self.params, self.model_state), mesh)
        return segmentation.predict_slices(
            evaluators.predict_of(self.objective),
            params,
            model_state,
            source,
            rules=self.rules,
            adapter=adapter,
            batch_size=batch_size,
            mesh=mesh,
        )


def card_of(record: Mapping[str, Any]) -> DatasetCard:
    """Returns the card of what a run was trained on, from its record.

    Raises:
      UserError: a record of before it was kept.
    """
    if missing := {"task", "labels", "segmentation"} - record["dataset"].keys():
        raise UserError(
            f"run {record['name']!r} was made by a version that did not keep what it was trained on",
            got=f"no {' and no '.join(sorted(missing))} of its dataset",
            fix="run it again",
        )
    return DatasetCard(
        name=record["dataset"]["name"],
        version="",
        task=record["dataset"]["task"],
        labels=tuple(record["dataset"]["labels"]),
        stored=StoredPixels.from_json(record["adapter"]["stored"]),
        splits=record["dataset"]["splits"],
        fingerprint=record["dataset"]["fingerprint"],
        segmentation=tuple(record["dataset"]["segmentation"]),
    )


def adapter_for(
    record: Mapping[str, Any], config: ConfigDict, card: DatasetCard, see: ModelInput, stored: StoredPixels
) -> Adapter:
    """Returns the way from other stored pixels to a run's model: by the crossing that it has declared, if any.

    Raises:
      UserError: pixels of another modality than those that it was trained on, or that can't be brought there.
    """
    if stored.modality != card.stored.modality:
        raise UserError(
            f"run {record['name']!r} was trained on {card.stored.modality}",
            got=stored.modality,
            expected=card.stored.modality,
        )
    return make_adapter(stored, see, plain(config.adapter) if config.adapter else None)


def load(folder: str | Path, mesh: Mesh) -> Trained:
    """Opens a finished fine-tuning.

    Raises:
      UserError: no finished run, one without a head of its own (a pretraining, a probe), or damaged weights.
    """
    run = ledger.read_run(folder)
    record, config = run.record, ConfigDict(run.record["config"])
    if config.run != "train" or record["kind"] != "finetune":
        raise UserError(
            f"run {record['name']!r} can't be used on new images", got=record["kind"], expected="a fine-tuning"
        )
    card = card_of(record)
    model_input = ModelInput.from_json(record["adapter"]["model_input"])
    backbone = make_backbone(config)
    made = make_adapter(card.stored, model_input, plain(config.adapter) if config.adapter else None)
    split = Split(card, Path(folder), config.data.split)
    parts = Parts(mesh, split, None, made, backbone, plain(config.backbone))
    k = len(card.labels)
    counts = Counts(card.labels, (1,) * k, (2,) * k)  # of no meaning: weights and priors are for training
    objective = make_objective(config, parts, counts)
    rules = records.mask_rules(config, parts) if "masks" in config else None
    params, model_state = _weights(Path(folder), record, objective, model_input)
    return Trained(record, config, card, model_input, objective, params, model_state, rules)


def _weights(folder: Path, record: Mapping[str, Any], objective: Any, see: ModelInput) -> tuple[PyTree, PyTree]:
    """The weights that the run was judged with: those of the last step, of the best one, or the average."""
    step = record["best"]["step"] if record["weights"] == "best" else None
    place = folder / checkpoint.FOLDER / str(step) if step is not None else checkpoint.latest_folder(folder)
    if not place.is_dir():
        raise UserError(f"run {record['name']!r} has not kept its weights", got=f"no {place}", fix="run it again")
    arrays, _ = checkpoint.load_arrays(place)
    prefix = _OF_WEIGHTS.get(record["weights"], "")
    kept = {
        k.removeprefix(prefix): v
        for k, v in arrays.items()
        if k.startswith((f"{prefix}params/", f"{prefix}model_state/"))
    }
    image = jax.ShapeDtypeStruct((1, *see.size, see.channels), jnp.float32)
    params, model_state, _ = jax.eval_shape(objective.init, jax.random.key(0), {"image": image})
    merged = trees.merge_strict(kept, {"params": params, "model_state": model_state}, source=f"run {record['name']!r}")
    return merged["params"], merged["model_state"]
