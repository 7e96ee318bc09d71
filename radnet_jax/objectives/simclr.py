"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float, PyTree

from radnet_jax.losses.ntxent import nt_xent
from radnet_jax.models.checks import check_above_zero
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class SimCLR(Chain):
    """Two views of an image agree, all other views of the global batch differ (section 2.1, equation 1).

    Departures from the paper: none in the loss; the authors' code adds the means of the two views, which is twice
    equation 1 and, under LARS, counts only for what has no trust ratio (biases, norms). Negatives are the whole global
    batch, wherever it is computed. Both views go through the backbone in one pass, so that BatchNorm sees both (the
    paper's implementation does the same).
    With `groups` each part of the batch is contrasted within itself; its BatchNorm statistics are the modules' matter.

    Attributes:
      backbone: the network that is kept.
      projector: MLP between features and loss (section 4.2).
      temperature: tau of equation 1.
      groups: contiguous parts of the batch whose examples are each other's negatives.
    """

    backbone: Any
    projector: Any
    temperature: float
    groups: int = 1

    requires = frozenset({"views"})

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        views = batch["views"]
        stats = state.model_state["batch_stats"]
        outputs, stats = networks.apply(self.modules, params, stats, networks.fold(views), train=True)
        features, z = (networks.unfold(outputs[name], views.shape[1]) for name in ("backbone", "projector"))
        loss, metrics = nt_xent(z, temperature=self.temperature, groups=self.groups)
        return loss, LossAux({"batch_stats": stats}, state.objective_state, metrics, features=features, embedding=z)


@OBJECTIVES.register("simclr")
def simclr(
    *,
    backbone: Any,
    groups: int = 1,
    temperature: float = 0.1,
    projector_layers: int = 2,
    projector_hidden: int = 2048,
    projector_dim: int = 128,
) -> SimCLR:
    """Makes the objective; the defaults are the paper's for ImageNet (section 4.2, appendix B.7)."""
    check_above_zero("simclr", temperature=temperature)
    projector = Projector(layers=projector_layers, hidden=projector_hidden, out=projector_dim, groups=groups)
    return SimCLR(backbone=backbone, projector=projector, temperature=temperature, groups=groups)
