"""Starts: where a backbone's weights come from, and what they expect to see."""

from __future__ import annotations

import collections
from collections.abc import Mapping
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from absl import logging
from jaxtyping import PyTree

from radnet_jax import checkpoint, trees
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.models import MODELS
from radnet_jax.preprocessing import ModelInput

# By the network that an objective keeps: where its backbone stands in a checkpoint, and in the state of another run.
_BACKBONE = {
    "online": {"params/backbone/": "params/backbone/"}
    | {"model_state/batch_stats/backbone/": "model_state/batch_stats/backbone/"},
    "target": {"objective_state/target/params/backbone/": "params/backbone/"}
    | {"objective_state/target/batch_stats/backbone/": "model_state/batch_stats/backbone/"},
}
_WEIGHTS = ("params/", "model_state/", "objective_state/target/")
_NETWORK = {"params": 2, "model_state": 3, "objective_state": 4}  # parts of a weight's name that are its network's
# Say how it is computed and trained; with `pool` a ViT has the same weights and other features, as the config asks.
NOT_ARCHITECTURE = ("dtype", "norm_momentum", "zero_init_last", "layer_scale", "pool")


@dataclasses.dataclass(frozen=True)
class Start:
    """A pretrained backbone; its weights stay on disk until `fill`.

    Attributes:
      id: `run_id@step-digest`: the run, the step and the very weights.
      backbone: backbone section of its config.
      model_input: what its input is.
      folder: the checkpoint; None for a start that a study has planned and not trained yet.
      kept: whose backbone it is, that of the "online" or the "target" network (`Objective.kept`).
      lineage: (name, fingerprint) of the datasets that it was trained on, and what it came from, oldest first.
    """

    id: str
    backbone: Mapping[str, Any]
    model_input: ModelInput
    folder: Path | None
    kept: str = "online"
    lineage: tuple[tuple[str, str], ...] = ()


def find_start(init_from: str) -> Start:
    """Finds the newest checkpoint of the workdir `init_from`, or the best one of a run that is judged by that.

    One of a run that was interrupted is taken too, with a warning: its learning rate has not come down.
    """
    folder = checkpoint.latest_folder(init_from)
    meta = checkpoint.load_meta(folder)
    if meta["config"].get("judged_weights") == "best":  # older ones don't have it
        if not meta.get("best"):
            raise UserError(f"{init_from}: no step of it was the best so far", fix="start from another checkpoint")
        folder = folder.with_name(str(meta["best"]["step"]))
        meta = checkpoint.load_meta(folder)
    steps = meta["config"].get("total_steps", meta["step"])  # imported weights have none
    if meta["step"] < steps and not ledger.is_finished(init_from):
        logging.warning(
            "%s has not ended: what starts from it starts from step %d of %d, before its learning rate came down",
            *(init_from, meta["step"], steps),
        )
    kept = meta.get("kept", "online")  # older checkpoints name none
    weights = sorted((k, v) for k, v in meta["digest"].items() if k.startswith(tuple(_BACKBONE[kept])))
    digest = hashlib.sha256(repr(weights).encode()).hexdigest()[:8]
    return Start(
        id=f"{meta['run_id']}@{meta['step']}-{digest}",
        backbone=meta["config"]["backbone"],
        model_input=ModelInput.from_json(meta["model_input"]),
        folder=folder,
        kept=kept,
        lineage=tuple((d["name"], d["fingerprint"]) for d in _datasets(meta)),
    )


def _datasets(meta: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Returns the datasets of a checkpoint's start and its own; imported weights name none."""
    return [*meta.get("lineage", ()), *([meta["dataset"]] if "dataset" in meta else [])]


def check_backbone(start: Start, backbone: Mapping[str, Any]) -> None:
    """Refuses a start whose backbone is not the one that the config asks for; a default may be written out or not."""
    theirs, ours = start.backbone, backbone
    if theirs["name"] == ours["name"]:
        theirs, ours = _written_out(theirs), _written_out(ours)
    names = sorted({*theirs, *ours}.difference(NOT_ARCHITECTURE))
    differing = [k for k in names if theirs.get(k) != ours.get(k)]
    if differing:
        raise UserError(
            f"the checkpoint of start {start.id} is of another architecture",
            got=", ".join(f"{k}={theirs.get(k)}" for k in differing),
            expected=", ".join(f"{k}={ours.get(k)}" for k in differing),
            fix="set config.backbone to the checkpoint's, or choose another init_from",
        )


def _written_out(backbone: Mapping[str, Any]) -> dict[str, Any]:
    defaults = MODELS.defaults(backbone["name"])
    return {k: list(v) if isinstance(v, tuple) else v for k, v in {**defaults, **backbone}.items()}


def backbone_of(arrays: Mapping[str, Any], kept: str) -> dict[str, Any]:
    """Returns the backbone that a checkpoint hands on, by the names that it has in the state of another run."""
    return {
        here + name.removeprefix(there): array
        for there, here in _BACKBONE[kept].items()
        for name, array in arrays.items()
        if name.startswith(there)
    }


def fill(start: Start, params: PyTree, model_state: PyTree, *, heads: str) -> tuple[PyTree, PyTree]:
    """Returns (params, model_state) with the start's backbone in place; all but `heads` must be filled, strictly.

    What the checkpoint holds beside the backbone is skipped, and logged by network with its number of arrays.
    """
    assert start.folder is not None, "a planned start has no weights yet"
    arrays, _ = checkpoint.load_arrays(start.folder)
    kept, taken = backbone_of(arrays, start.kept), tuple(_BACKBONE[start.kept])
    skipped = collections.Counter(
        "/".join(k.split("/")[: _NETWORK[k.partition("/")[0]]])
        for k in sorted(arrays)
        if k.startswith(_WEIGHTS) and not k.startswith(taken)
    )
    told = ", ".join(f"{network} ({count})" for network, count in skipped.items())
    logging.info("start %s: %d arrays, skipped %s", start.id, len(kept), told or "none")
    merged = trees.merge_strict(
        kept,
        {"params": params, "model_state": model_state},
        new=rf"(params|model_state/batch_stats)/({heads})",
        source=f"start {start.id}",
    )
    return merged["params"], merged["model_state"]
