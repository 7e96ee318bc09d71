"""PIRL (Misra & van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.losses.info_nce import info_nce
from radnet_jax.models.heads import JigsawHead, Projector
from radnet_jax.objectives import OBJECTIVES, Batch, bank, networks
from radnet_jax.objectives.insdis import InsDis, check_bank, drawn, moved
from radnet_jax.objectives.moco import check_numbers
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class PIRL(InsDis):
    """An image, and the puzzle of its tiles, find its row of a memory bank (section 3.2, equations 3 to 5).

    Both have half of the loss (lambda = 0.5) and share the rows that are drawn. The image's embedding moves the row.
    The tiles go through the backbone one by one, and a head joins them in the order that they come in.

    Departures from the paper: those of `InsDis`, from noise-contrastive estimation to the shared set of drawn rows. The
    recipe changes the values of tiles too, as it does those of views; the checkpoint's code leaves tiles as they are.

    Attributes:
      jigsaw: head on the features of the tiles.
    """

    jigsaw: Any

    requires = frozenset({"image", "tiles", "index"})
    heads = r"(projector|jigsaw)/.*"

    @property
    def jigsaw_modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "jigsaw": self.jigsaw}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, model_state, remembered = super().init(rng, batch)
        return *with_jigsaw(rng, self.jigsaw_modules, batch, params, model_state), remembered

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        stats, rows = state.model_state["batch_stats"], lax.stop_gradient(state.objective_state["bank"]["rows"])
        outputs, stats = networks.apply(self.modules, params, stats, batch["image"], train=True)
        puzzle, stats = networks.apply(self.jigsaw_modules, params, stats, networks.fold(batch["tiles"]), train=True)
        z, z_puzzle = outputs["projector"], puzzle["jigsaw"]
        own = bank.read(rows, batch["index"])
        others = bank.read(rows, drawn(rng, self.draws, self.num_examples))
        of_image, metrics = info_nce(z, own, others, temperature=self.temperature)
        of_puzzle, more = info_nce(z_puzzle, own, others, temperature=self.temperature)
        rows = bank.write(rows, batch["index"], moved(own, z, self.momentum))
        return (of_image + of_puzzle) / 2, LossAux(
            {"batch_stats": stats},
            {"bank": {"rows": rows}},
            metrics | {"jigsaw_accuracy": more["contrastive_accuracy"]},
            features=outputs["backbone"][:, None],
            embedding=jnp.stack([networks.unit(z), networks.unit(z_puzzle)], axis=1),
        )


def with_jigsaw(
    rng: Array, modules: networks.Modules, batch: Batch, params: PyTree, model_state: PyTree
) -> tuple[PyTree, PyTree]:
    """Returns parameters and model_state of an objective with those of its head for the tiles beside them."""
    new, stats = networks.init(rng, modules, networks.fold(batch["tiles"]))
    stats = {**model_state["batch_stats"], "jigsaw": stats["jigsaw"]}
    return {**params, "jigsaw": new["jigsaw"]}, {**model_state, "batch_stats": stats}


@OBJECTIVES.register("pirl")
def pirl(
    *,
    backbone: Any,
    num_examples: int,
    batch_size: int,
    temperature: float = 0.07,
    draws: int = 65536,
    momentum: float = 0.5,
    bank_dtype: str = "float32",
    projector_dim: int = 128,
) -> PIRL:
    """Makes the objective; the defaults are those of the checkpoint that studies call PIRL."""
    check_numbers("pirl", temperature=temperature, momentum=momentum)
    check_bank("pirl", num_examples=num_examples, batch_size=batch_size, draws=draws, bank_dtype=bank_dtype)
    return PIRL(
        backbone=backbone,
        projector=Projector(layers=1, out=projector_dim, last_norm=False),
        jigsaw=JigsawHead(out=projector_dim),
        temperature=temperature,
        num_examples=num_examples,
        draws=draws,
        momentum=momentum,
        bank_dtype=bank_dtype,
    )
