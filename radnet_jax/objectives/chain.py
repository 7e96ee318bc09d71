"""What objectives share whose networks are one chain: backbone, projector, and perhaps a predictor and a target."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, PyTree

from radnet_jax.objectives import Batch, Defaults, networks
from radnet_jax.state import TrainState


class Chain(Defaults):
    """For objectives with a backbone and a projector that see views, and remember nothing: others say so in `init`."""

    backbone: Any
    projector: Any

    heads = r"projector/.*"

    @property
    def modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "projector": self.projector}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["views"][:, 0])
        return params, {"batch_stats": batch_stats}, {}

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        return networks.features(self.modules, params, model_state, batch["image"])


class RisingTarget(Chain):
    """For those with a target, whose momentum rises from `momentum` to 1 at `total_steps`, by a cosine.

    The target has all networks of the chain; others say so in `target_modules`.
    """

    momentum: float
    total_steps: int

    @property
    def target_modules(self) -> networks.Modules:
        return self.modules

    def begin(self, state: TrainState) -> PyTree:
        return {"target": networks.make_target(tuple(self.target_modules), state.params, state.model_state)}

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        # The update that has just been counted has the momentum of the step before it: the first one has `momentum`.
        momentum = networks.rising_momentum(self.momentum, state.step - 1, self.total_steps)
        target = networks.follow(state.objective_state["target"], state.params, momentum)
        return state.params, {**state.objective_state, "target": target}


class Predicting(Chain):
    """For those with a predictor behind the projector."""

    predictor: Any

    heads = r"(projector|predictor)/.*"

    @property
    def modules(self) -> networks.Modules:
        return {**super().modules, "predictor": self.predictor}


class PredictingTarget(Predicting, RisingTarget):
    """For those with both; the target has no predictor."""

    @property
    def target_modules(self) -> networks.Modules:
        return {"backbone": self.backbone, "projector": self.projector}
