"""Instance discrimination with a memory bank (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", 2018), in the form of the checkpoint that studies call InsDis."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.info_nce import info_nce
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, bank, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.objectives.moco import check_numbers
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class InsDis(Chain):
    """An image finds its own row of a memory bank among rows that are drawn (section 3.2, equation 2).

    The bank has the embedding of each training example, as a running mean on the sphere: after the loss was taken, the
    example's row becomes the unit vector of momentum * row + (1 - momentum) * embedding.

    Departures from the paper: softmax cross-entropy over the own row and 65,536 drawn ones, as in the checkpoint's
    repository, for noise-contrastive estimation with 4,096 and proximal regularisation (section 3.3). From both: the
    whole batch shares one set of drawn rows, for a set for each example. The gradient has the same expectation and the
    rows that travel are fewer by the size of the batch. Rows are drawn with replacement, the own one among them.

    Attributes:
      backbone: the network that is kept.
      projector: linear layer between features and loss.
      temperature: tau of equation 2.
      num_examples: of the train split.
      draws: rows that are drawn.
      momentum: of a row of the bank.
      bank_dtype: "float32", or "bfloat16" for half of the memory.
    """

    backbone: Any
    projector: Any
    temperature: float
    num_examples: int
    draws: int
    momentum: float
    bank_dtype: str

    requires = frozenset({"image", "index"})

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["image"])
        rows = bank.random_unit(jax.random.fold_in(rng, 1), self.num_examples, self.projector.out, self.bank_dtype)
        return params, {"batch_stats": batch_stats}, {"bank": {"rows": rows}}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        stats, rows = state.model_state["batch_stats"], lax.stop_gradient(state.objective_state["bank"]["rows"])
        outputs, stats = networks.apply(self.modules, params, stats, batch["image"], train=True)
        z = outputs["projector"]
        own = bank.read(rows, batch["index"])
        others = bank.read(rows, drawn(rng, self.draws, self.num_examples))
        loss, metrics = info_nce(z, own, others, temperature=self.temperature)
        rows = bank.write(rows, batch["index"], moved(own, z, self.momentum))
        remembered = {"bank": {"rows": rows}}
        features, z = outputs["backbone"][:, None], z[:, None]
        return loss, LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=z)

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        return jnp.float32(len(batch["index"]))


def drawn(rng: Array, draws: int, num_examples: int) -> Int[Array, " k"]:
    """Returns the examples whose rows are the negatives of a step, uniform with replacement."""
    return jax.random.randint(rng, (draws,), 0, num_examples)


def moved(rows: Float[Array, "b d"], z: Float[Array, "b d"], momentum: float) -> Float[Array, "b d"]:
    """Returns the rows of a batch after its step, without gradient."""
    return lax.stop_gradient(networks.unit(momentum * rows.astype(jnp.float32) + (1 - momentum) * networks.unit(z)))


def check_bank(name: str, *, num_examples: int, batch_size: int, draws: int, bank_dtype: str) -> None:
    """Refuses a bank from which nothing is drawn, of another type, or with fewer rows than a batch."""
    bank.check(name, num_examples, batch_size)
    if draws < 1:
        raise UserError(f"{name}: draws", got=draws, expected="at least 1")
    bank.check_dtype(name, bank_dtype)


@OBJECTIVES.register("insdis")
def insdis(
    *,
    backbone: Any,
    num_examples: int,
    batch_size: int,
    temperature: float = 0.07,
    draws: int = 65536,
    momentum: float = 0.5,
    bank_dtype: str = "float32",
    projector_dim: int = 128,
) -> InsDis:
    """Makes the objective; the defaults are the checkpoint's."""
    check_numbers("insdis", temperature=temperature, momentum=momentum)
    check_bank("insdis", num_examples=num_examples, batch_size=batch_size, draws=draws, bank_dtype=bank_dtype)
    return InsDis(
        backbone=backbone,
        projector=Projector(layers=1, out=projector_dim, last_norm=False),
        temperature=temperature,
        num_examples=num_examples,
        draws=draws,
        momentum=momentum,
        bank_dtype=bank_dtype,
    )
