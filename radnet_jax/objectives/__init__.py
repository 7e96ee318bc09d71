"""What a run optimises: one file for each objective. See `Objective` for the contract that the train loop relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxtyping import Array, Float, PyTree

from radnet_jax.registry import Registry
from radnet_jax.state import LossAux, TrainState

OBJECTIVES = Registry("objective", "radnet_jax.objectives")

Batch = Mapping[str, Array]


class Objective(Protocol):
    """A frozen dataclass of Linen modules and hyperparameters; it holds no arrays and can be hashed.

    A factory registered in OBJECTIVES makes it: `factory(*, backbone, **config)`, with the backbone module and, where
    the factory names them, the `card` of the dataset it will be trained on and `groups`: the contiguous parts of a
    batch that know nothing of each other, in BatchNorm and in the loss. A loss that is a mean over examples (one with
    a `weight`) need not name them; another that does not is refused with more than one.

    Attributes:
      requires: batch keys that the loss reads, of "views" [b v h w c], "local_views" [b l h w c], "image" [b h w c],
        "segmentation" [b h w], "labels" [b k], "label_mask" [b k], "index" [b]. The loop makes them, and refuses at
        start-up what a dataset can't give.
      heads: regex of parameter and state names (full match) that are new in each run; the rest can come from
        `init_from`.
      weight: what a part of a batch weighs in the loss of the whole (the number of terms of its mean); None where the
        loss needs the whole batch at once, as contrastive ones do.
    """

    requires: frozenset[str]
    heads: str
    weight: Callable[[Batch], Float[Array, ""]] | None

    def __hash__(self) -> int: ...

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        """Returns (params, model_state, objective_state) from a batch of the shapes that `loss` will see."""
        ...

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        """Returns the scalar to minimise over the global batch, and what changed beside the parameters."""
        ...

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """Returns (params, objective_state) after the optimizer's update: EMA targets and norms live here."""
        ...

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        """Returns "features" [b d], and "logits" [b k] where there is a head; the network in eval mode."""
        ...


class NoUpdateMixin:
    """For objectives that have nothing to do after the optimizer's update, and whose loss needs the whole batch."""

    weight = None

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        return state.params, state.objective_state


def apply_train(module: Any, params: PyTree, batch_stats: PyTree, *inputs: Array) -> tuple[Any, PyTree]:
    """Applies a module in train mode; returns (output, new batch_stats)."""
    out, updates = module.apply(
        {"params": params, "batch_stats": batch_stats}, *inputs, train=True, mutable=["batch_stats"]
    )
    return out, updates.get("batch_stats", {})


def apply_eval(module: Any, params: PyTree, batch_stats: PyTree, *inputs: Array) -> Any:
    """Applies a module in eval mode."""
    return module.apply({"params": params, "batch_stats": batch_stats}, *inputs, train=False)
