"""What a run optimises: one file for each objective. See `Objective` for the contract that the train loop relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Protocol

from jaxtyping import Array, Float, PyTree

from radnet_jax.registry import Registry
from radnet_jax.state import LossAux, TrainState

OBJECTIVES = Registry("objective", "radnet_jax.objectives")

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Work between steps that an objective declares and the loop schedules: clustering, above all.

    It runs before a step whose number is `first`, `first + every`, ... It changes nothing but `objective_state`, and is
    a function of the state at that step: a run that is interrupted in it, or goes on from a checkpoint of that step,
    does it again, so nothing of it need be saved.

    Attributes:
      name: for logs and the objective itself.
      every: steps between two of them; 0 for one only.
      first: step before which it runs first.
      reads: whether it begins with a pass over the train split: `observe` then sees every example once, as in
        evaluation (the whole image, no augmentation), with its "index" and "valid" [b] (0 fills up the last batch).
    """

    name: str
    every: int
    first: int
    reads: bool


class Objective(Protocol):
    """A frozen dataclass of Linen modules and hyperparameters; it holds no arrays and can be hashed.

    A factory registered in OBJECTIVES makes it: `factory(*, backbone, **config)`, with the backbone module (annotated
    with its class where not any will do) and, of what else is known of the run, what the factory names: `card` of the
    dataset, `counts` (a function that returns those of its training labels), `num_examples` of the train split,
    `batch_size` (global), `total_steps`, `steps_per_epoch`, `local_views` (how many the augmentation makes), `groups`:
    the contiguous parts of a batch that know nothing of each other, in BatchNorm and in the loss. A loss that is a mean
    over examples (one with a `weight`) need not name them; another that does not is refused with more than one.

    What is remembered without gradient stands in `objective_state`, a dict. Under "target" an EMA network has
    {"params", "batch_stats"}; under "bank" stands what has a row for each training example (see `bank`), is divided
    over the devices by rows, and is not held twice: it alone keeps what a step that was not finite wrote.

    Attributes:
      requires: batch keys that the loss reads, of "views" [b v h w c], "local_views" [b l h w c], "tiles"
        [b 9 h w c], "image" [b h w c], "segmentation" [b h w], "labels" [b k], "label_mask" [b k], "index" [b]. The
        loop makes them, and refuses at start-up what a dataset can't give.
      heads: regex of parameter and state names (full match) that are new in each run; the rest can come from
        `init_from`.
      weight: what a part of a batch weighs in the loss of the whole (the number of terms of its mean), with the `rng`
        that the part's loss was given; None where the loss needs the whole batch at once, as contrastive ones do.
      phases: work between steps.
      kept: whose backbone the run leaves behind, for other runs to start from and for nearest neighbours to judge:
        that of the "online" network, or of the "target".
      judged: what a run of it is judged by, "labels" of the images or "masks".
    """

    requires: frozenset[str]
    heads: str
    judged: str
    weight: Callable[[Batch, Array], Float[Array, ""]] | None
    phases: tuple[Phase, ...]
    kept: str

    def __hash__(self) -> int: ...

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        """Returns (params, model_state, objective_state) from a batch of the shapes that `loss` will see."""
        ...

    def begin(self, state: TrainState) -> PyTree:
        """Returns the objective_state of step 0, once the backbone of a start is in place: targets are its copies."""
        ...

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        """Returns the scalar to minimise over the global batch, and what changed beside the parameters."""
        ...

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """Returns (params, objective_state) after the optimizer's update: EMA targets and norms live here.

        `state.step` counts this update.
        """
        ...

    def observe(self, state: TrainState, batch: Batch, phase: Phase) -> PyTree:
        """Returns the objective_state after it has seen a batch of a phase's pass."""
        ...

    def finish(self, state: TrainState, phase: Phase, rng: Array) -> tuple[PyTree, dict[str, Array]]:
        """Returns the objective_state after a phase, and metrics of it for the log."""
        ...

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        """Returns "features" [b d], and "logits" where there is a head; the network in eval mode.

        Logits are [b k]; of an objective that is judged by masks [b h w k], one for each value of the mask.
        """
        ...


class Defaults:
    """For objectives whose loss needs the whole batch, with no phase and nothing to do after the update."""

    weight: Callable[[Batch, Array], Float[Array, ""]] | None = None
    phases: tuple[Phase, ...] = ()
    kept: str = "online"
    judged: str = "labels"

    def begin(self, state: TrainState) -> PyTree:
        return state.objective_state

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        return state.params, state.objective_state

    def observe(self, state: TrainState, batch: Batch, phase: Phase) -> PyTree:
        raise NotImplementedError(f"{type(self).__name__} has no phase that reads")

    def finish(self, state: TrainState, phase: Phase, rng: Array) -> tuple[PyTree, dict[str, Array]]:
        raise NotImplementedError(f"{type(self).__name__} has no phases")


def kept_network(objective: Objective, state: TrainState) -> tuple[PyTree, PyTree]:
    """Returns (params, model_state) for `predict` with the backbone that the run leaves behind."""
    if objective.kept == "online":
        return state.params, state.model_state
    target, stats = state.objective_state["target"], state.model_state["batch_stats"]
    model_state = {**state.model_state, "batch_stats": {**stats, **target["batch_stats"]}}
    return {**state.params, **target["params"]}, model_state
