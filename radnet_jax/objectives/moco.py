"""MoCo (He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2020), and its version 2.

The versions differ in numbers: `configs/pretrain/moco_v1.py` and `moco_v2.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.info_nce import info_nce
from radnet_jax.models.checks import check_above_zero
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class MoCo(Chain):
    """A view finds the key of the other view among a queue of earlier keys (section 3, equation 1, algorithm 1).

    View 0 is the query and view 1 the key, which the target network makes: the EMA of the online one (equation 2),
    already with the newest parameters, in train mode with running statistics of its own. Keys enter the queue after the
    loss was taken, in the order of the batch, and push out the oldest.

    The authors shuffle the keys over the devices (section 3.3), because their BatchNorm has statistics by device: query
    and key of an image would else share those of the same few images, and could be matched by them. Here statistics are
    of the whole global batch: all queries share one set and all keys another, which tells nothing of which belong
    together. With `groups`, where BatchNorm has statistics by parts of the batch, the keys are made in other groups.

    Departures from the paper: BatchNorm, as said; with groups the keys are dealt out to them in turn, not at random.
    The first queue is of random directions, as in the authors' repository.

    Attributes:
      backbone: the network that is kept.
      projector: linear layer or MLP between features and loss.
      temperature: tau of equation 1.
      queue: keys that are remembered; a multiple of the batch.
      momentum: m of equation 2.
      groups: contiguous parts of the batch with BatchNorm statistics of their own.
    """

    backbone: Any
    projector: Any
    temperature: float
    queue: int
    momentum: float
    groups: int = 1

    requires = frozenset({"views"})

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["views"][:, 0])
        keys = jax.random.normal(jax.random.fold_in(rng, 1), (self.queue, self.projector.out))
        return params, {"batch_stats": batch_stats}, {"queue": first_queue(keys)}

    def begin(self, state: TrainState) -> PyTree:
        target = networks.make_target(tuple(self.modules), state.params, state.model_state)
        return {**state.objective_state, "target": target}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views, stats = batch["views"], state.model_state["batch_stats"]
        keys, remembered = target_keys(self.modules, state.objective_state, views[:, 1], self.groups)
        outputs, stats = networks.apply(self.modules, params, stats, views[:, 0], train=True)
        q = outputs["projector"]
        queue = lax.stop_gradient(remembered["queue"]["keys"])
        loss, metrics = info_nce(q, keys, queue, temperature=self.temperature)
        remembered = {**remembered, "queue": enqueue(remembered["queue"], keys)}
        compared = jnp.stack([networks.unit(q), keys], axis=1)
        features = outputs["backbone"][:, None]
        return loss, LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=compared)

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        """Examples. A part of a batch finds the keys of the parts before it in the queue."""
        return jnp.float32(len(batch["views"]))

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        remembered = state.objective_state
        target = networks.follow(remembered["target"], state.params, self.momentum)
        return state.params, {**remembered, "target": target}


Queue = dict[str, Array]
"""{"keys": unit embeddings [k d], "next": the row that is written next}: the oldest is the next to go."""


def first_queue(keys: Float[Array, "k d"]) -> Queue:
    """Returns a queue of these directions."""
    return {"keys": networks.unit(keys), "next": jnp.zeros((), jnp.int32)}


def enqueue(queue: Queue, keys: Float[Array, "b d"]) -> Queue:
    """Returns the queue with a batch of keys in place of the oldest; its length is a multiple of the batch."""
    start: Int[Array, ""] = queue["next"]
    rows = lax.dynamic_update_slice_in_dim(queue["keys"], keys, start, axis=0)
    return {"keys": rows, "next": (start + len(keys)) % len(rows)}


def target_keys(
    modules: networks.Modules, remembered: PyTree, image: Float[Array, "b h w c"], groups: int
) -> tuple[Float[Array, "b d"], PyTree]:
    """Returns the target's unit embeddings, without gradient, and the objective_state with its new running statistics.

    With groups the examples are dealt out to others than those that `image` has them in.
    """
    target = remembered["target"]
    dealt = _swapped(image, groups, -1)
    outputs, stats = networks.apply(modules, target["params"], target["batch_stats"], dealt, train=True)
    keys, stats = lax.stop_gradient((networks.unit(outputs["projector"]), stats))
    return _swapped(keys, -1, groups), {**remembered, "target": {**target, "batch_stats": stats}}


def _swapped(x: Float[Array, "b ..."], rows: int, columns: int) -> Float[Array, "b ..."]:
    """Writes the examples as a table, row by row, and reads it column by column."""
    if 1 in (rows, columns):
        return x
    return x.reshape(rows, columns, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def check_numbers(name: str, *, temperature: float, momentum: float) -> None:
    """Refuses a temperature that is not positive, and a momentum outside [0, 1)."""
    check_above_zero(name, temperature=temperature)
    if not 0 <= momentum < 1:
        raise UserError(f"{name}: momentum", got=momentum, expected="at least 0 and below 1")


def check_queue(name: str, queue: int, batch_size: int) -> None:
    """Refuses a queue that whole batches do not fill."""
    if queue < 1 or queue % batch_size:
        lower = max(queue // batch_size, 1) * batch_size
        raise UserError(
            f"{name}: queue is filled by whole batches",
            got=f"queue={queue}, batch_size={batch_size}",
            expected=f"a multiple of {batch_size}",
            fix=f"use {lower} or {lower + batch_size}",
        )


@OBJECTIVES.register("moco")
def moco(
    *,
    backbone: Any,
    batch_size: int,
    groups: int = 1,
    temperature: float = 0.2,
    queue: int = 65536,
    momentum: float = 0.999,
    projector_layers: int = 2,
    projector_hidden: int = 2048,
    projector_dim: int = 128,
) -> MoCo:
    """Makes the objective; the defaults are version 2's (its section 3). One layer is version 1's linear projector."""
    check_numbers("moco", temperature=temperature, momentum=momentum)
    check_queue("moco", queue, batch_size)
    projector = Projector(
        layers=projector_layers, hidden=projector_hidden, out=projector_dim, norm=False, last_norm=False
    )
    return MoCo(
        backbone=backbone,
        projector=projector,
        temperature=temperature,
        queue=queue,
        momentum=momentum,
        groups=groups,
    )
