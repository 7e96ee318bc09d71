"""A finished linear probe, ready to be used on other images: its start's backbone, and what it has learned."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import probe, starts, trained
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger, probes
from radnet_jax.parts import Parts, make_backbone, plain
from radnet_jax.preprocessing import Adapter, ModelInput, StoredPixels


@dataclasses.dataclass(frozen=True)
class TrainedProbe:
    """A finished linear probe.

    Attributes:
      record: its run.json.
      config: of the run.
      card: what it was trained on, without its records.
      model_input: what its backbone expects to see.
      backbone: the network.
      variables: (params, batch_stats) of it.
      linear: the classifier.
    """

    record: Mapping[str, Any]
    config: ConfigDict
    card: DatasetCard
    model_input: ModelInput
    backbone: Any
    variables: tuple[PyTree, PyTree]
    linear: probes.Linear

    def adapter_for(self, stored: StoredPixels) -> Adapter:
        """Returns the way from other stored pixels to the backbone, see `trained.adapter_for`."""
        return trained.adapter_for(self.record, self.config, self.card, self.model_input, stored)

    def scores(self, split: Split, adapter: Adapter, *, batch_size: int, mesh: Mesh) -> Float[np.ndarray, "n k"]:
        """Returns the scores of each record of a split."""
        options: dict[str, Any] = dict(adapter=adapter, batch_size=batch_size, mesh=mesh)
        return self.linear.scores(evaluators.extract_features(self.backbone, *self.variables, split, **options))


def load(folder: str | Path, start: str | Path, mesh: Mesh) -> TrainedProbe:
    """Opens a finished linear probe.

    Args:
      folder: of the run.
      start: workdir of the pretraining, or imported weights, that it has judged.
      mesh: where to compute.

    Raises:
      UserError: another kind of run, a random backbone, or another start.
    """
    run = ledger.read_run(folder)
    record, config = run.record, ConfigDict(run.record["config"])
    file = Path(folder, probe.PROBE_FILE)
    if record["kind"] != "linear_probe" or not record["checkpoint"] or not file.is_file():
        got = "one without its weights" if record["kind"] == "linear_probe" else record["kind"]
        raise UserError(
            f"run {record['name']!r} can't be used on other images",
            got=f"{got}, of a random backbone" if not record["checkpoint"] else got,
            expected="a fine-tuning, or a linear probe of a start",
        )
    if not str(start):
        raise UserError(f"probe {record['name']!r} needs its start", fix="name it: --config.external.start=PRETRAINING")
    found = starts.find_start(str(start))
    if found.id != record["checkpoint"]:
        raise UserError(
            f"{start} is not the start of probe {record['name']!r}", got=found.id, expected=record["checkpoint"]
        )
    card, see = trained.card_of(record), found.model_input
    made = trained.adapter_for(record, config, card, see, card.stored)
    backbone = make_backbone(config)
    parts = Parts(mesh, Split(card, Path(folder), config.data.split), found, made, backbone, plain(config.backbone))
    variables = probe.variables_of(config, parts)
    return TrainedProbe(record, config, card, see, backbone, variables, probes.Linear.load(file))
