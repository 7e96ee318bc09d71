"""SwAV (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.swav import swapped_prediction
from radnet_jax.models.checks import check_above_zero
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, bank, multicrop, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class SwAV(Chain):
    """Views of an image predict each other's assignment to prototypes, which are trained (section 3, equation 2).

    The prototypes have length one: at the start and after each update. They get no gradient in the first steps
    (appendix A.1).

    Departures from the authors' runs: assignments and BatchNorm are of the global batch wherever it is computed
    (theirs: BatchNorm in groups of 8 GPUs), float32 where they computed in float16. The queue is theirs: it begins to
    fill at `queue_from_step` and has a part once it is full.

    Attributes:
      backbone: the network that is kept.
      projector: MLP between features and prototypes.
      prototypes: how many.
      temperature: tau of equation 2.
      epsilon: of the Sinkhorn algorithm (equation 3).
      iterations: of the same.
      freeze_steps: steps in which the prototypes stay as they are.
      queue_size: embeddings of earlier batches that are assigned along with the batch; 0 for none.
      queue_from_step: the step whose embeddings are the first in the queue.
      batch_size: of the run.
      local_views: smaller views of each image beside the two; 0 for none.
    """

    backbone: Any
    projector: Any
    prototypes: int
    temperature: float
    epsilon: float
    iterations: int
    freeze_steps: int
    queue_size: int
    queue_from_step: int
    batch_size: int
    local_views: int

    heads = r"(projector|prototypes)/.*"

    @property
    def requires(self) -> frozenset[str]:
        return multicrop.requires(self.local_views)

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["views"][:, 0])
        dim = self.projector.out
        rows = jax.random.normal(jax.random.fold_in(rng, 1), (self.prototypes, dim))
        params["prototypes"] = {"vectors": networks.unit(rows)}
        queue = {"queue": jnp.zeros((2, self.queue_size, dim))} if self.queue_size else {}
        return params, {"batch_stats": batch_stats}, queue

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        features, z, stats = multicrop.apply(self.modules, params, state.model_state["batch_stats"], batch)
        vectors = params["prototypes"]["vectors"].astype(jnp.float32)
        vectors = jnp.where(state.step < self.freeze_steps, lax.stop_gradient(vectors), vectors)
        queue = state.objective_state.get("queue")
        full = self.queue_from_step + self.queue_size // self.batch_size
        loss, metrics = swapped_prediction(
            z,
            vectors,
            temperature=self.temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
            queue=queue,
            queue_valid=state.step >= full,
        )
        remembered = {} if queue is None else {"queue": self._queued(queue, z, state.step)}
        return loss, LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=z)

    def _queued(self, queue: Array, z: Array, step: Array) -> Array:
        """The queue with the two global views of a batch in front, and its oldest embeddings gone."""
        newest = lax.stop_gradient(networks.unit(z[:, :2])).swapaxes(0, 1)
        moved = jnp.concatenate([newest, queue[:, : -len(z)]], axis=1)
        return jnp.where(step >= self.queue_from_step, moved, queue)

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        vectors = networks.unit(state.params["prototypes"]["vectors"])
        return {**state.params, "prototypes": {"vectors": vectors}}, state.objective_state


@OBJECTIVES.register("swav")
def swav(
    *,
    backbone: Any,
    num_examples: int,
    batch_size: int,
    total_steps: int,
    local_views: int,
    prototypes: int = 3000,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    freeze_steps: int = 313,
    queue_size: int = 0,
    queue_from_step: int = 0,
    projector_hidden: int = 2048,
    projector_dim: int = 128,
) -> SwAV:
    """Makes the objective; the defaults are the authors' for ImageNet at batch 4096 (appendix A.1, scripts)."""
    check_above_zero("swav", temperature=temperature, epsilon=epsilon)
    if iterations < 1:
        raise UserError("swav: iterations of the Sinkhorn algorithm", got=iterations, expected="at least 1")
    bank.check_clusters("swav: prototypes", prototypes, num_examples)
    if queue_size % batch_size or queue_size < 0:
        raise UserError(
            "swav: queue_size is no multiple of the batch",
            got=f"{queue_size}, batch_size {batch_size}",
            fix=f"use 0 (no queue) or {max(queue_size // batch_size, 1) * batch_size}",
        )
    if min(freeze_steps, queue_from_step) < 0:
        raise UserError(
            "swav: freeze_steps, queue_from_step", got=f"{freeze_steps}, {queue_from_step}", expected="0 or more"
        )
    first = queue_from_step + queue_size // batch_size
    if queue_size and first >= total_steps:
        raise UserError(
            "swav: the run ends before its queue is full, and has no part in it",
            got=f"queue_from_step={queue_from_step}, queue_size={queue_size}: full at step {first} of {total_steps}",
            fix="set --config.objective.queue_from_step, or queue_size=0",
        )
    return SwAV(
        backbone=backbone,
        projector=Projector(layers=2, hidden=projector_hidden, out=projector_dim, last_norm=False),
        prototypes=prototypes,
        temperature=temperature,
        epsilon=epsilon,
        iterations=iterations,
        freeze_steps=freeze_steps,
        queue_size=queue_size,
        queue_from_step=queue_from_step,
        batch_size=batch_size,
        local_views=local_views,
    )
