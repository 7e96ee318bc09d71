"""Starts: where a backbone's weights come from, and what they expect to see."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
from jaxtyping import PyTree
import numpy as np

from radnet_jax import checkpoint, trees
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import ModelInput

_BACKBONE = ("params/backbone/", "model_state/batch_stats/backbone/")


@dataclasses.dataclass(frozen=True)
class Start:
    """A pretrained backbone, loaded to the host.

    Attributes:
      id: `run_id@step` of the pretraining run.
      backbone: backbone section of its config.
      model_input: what its input is.
      arrays: the backbone's weights and statistics by name.
    """

    id: str
    backbone: Mapping[str, Any]
    model_input: ModelInput
    arrays: Mapping[str, np.ndarray]


def load_start(init_from: str) -> Start:
    """Loads the newest checkpoint of the workdir `init_from`; what is not of the backbone is skipped and logged."""
    folder = checkpoint.latest_folder(init_from)
    arrays, meta = checkpoint.load_arrays(folder)
    kept = {k: v for k, v in arrays.items() if k.startswith(_BACKBONE)}
    weights = {k for k in arrays if k.startswith(("params/", "model_state/"))}
    skipped = sorted(weights - set(kept))
    logging.info("init_from %s: %d arrays, skipped %s", folder, len(kept), ", ".join(skipped) or "none")
    return Start(
        id=f"{meta['run_id']}@{meta['step']}",
        backbone=meta["config"]["backbone"],
        model_input=ModelInput.from_json(meta["model_input"]),
        arrays=kept,
    )


def check_backbone(start: Start, backbone: Mapping[str, Any], init_from: str) -> None:
    """Refuses a start whose backbone is not the one that the config asks for."""
    differing = [k for k in sorted({*start.backbone, *backbone}) if start.backbone.get(k) != backbone.get(k)]
    if differing:
        raise UserError(
            f"the checkpoint in {init_from} is of another architecture",
            got=", ".join(f"{k}={start.backbone.get(k)}" for k in differing),
            expected=", ".join(f"{k}={backbone.get(k)}" for k in differing),
            fix="set config.backbone to the checkpoint's, or choose another init_from",
        )


def fill(start: Start, params: PyTree, model_state: PyTree, *, heads: str) -> tuple[PyTree, PyTree]:
    """Returns (params, model_state) with the start's backbone in place; all but `heads` must be filled, strictly."""
    merged = trees.merge_strict(
        start.arrays,
        {"params": params, "model_state": model_state},
        new=rf"(params|model_state/batch_stats)/({heads})",
        source=f"start {start.id}",
    )
    return merged["params"], merged["model_state"]
