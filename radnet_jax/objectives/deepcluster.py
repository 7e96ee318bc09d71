"""DeepCluster v2 and SeLa v2 (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", 2020, appendix D)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax import clustering
from radnet_jax.errors import UserError
from radnet_jax.losses.deepcluster import cluster_cross_entropy
from radnet_jax.models.checks import check_above_zero
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, Phase, bank, multicrop, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.state import LossAux, TrainState

_CROPS = 2  # global views, each with a bank of its own


@dataclasses.dataclass(frozen=True)
class DeepCluster(Chain):
    """Views of an image are classified into its cluster, which was found before the epoch among all images.

    The embeddings of the two global views are written into two banks as the network passes over them; before each epoch
    head h clusters bank h mod 2, so that what is clustered is up to an epoch old. Centroids become the head's
    prototypes, which are never trained, and all views of an image share its one cluster of each head. Images without a
    cluster are left out.

    Before the first epoch a pass over the data fills the banks, as the authors do. It shows each image
    whole in eval mode, where they take two random crops: both banks begin with the same embeddings, and the heads
    differ by the seeds of their clusters only; after an epoch the banks differ. Whole batches make an epoch, so that a
    few images are passed over in each; they keep their older embedding, and the cluster that it falls into.

    Clusters are found by spherical k-means from random rows (DeepCluster v2), or by its balanced form, whose rows are
    shared out by Sinkhorn-Knopp over the whole bank (SeLa v2). Of SeLa v2 no code is published: that its clusters are
    hard, and its prototypes centroids as those of DeepCluster v2, is our reading. Empty clusters keep their seed, as in
    the authors' code.

    Attributes:
      backbone: the network that is kept.
      projector: MLP between features and prototypes.
      prototypes: clusters of a head.
      clusterings: heads.
      temperature: tau of the softmax.
      assignment: "kmeans" or "sinkhorn".
      iterations: moves of the centroids.
      epsilon: of Sinkhorn-Knopp.
      sinkhorn_iterations: of the same.
      num_examples: of the train split.
      bank_dtype: "float32", or "bfloat16" for half of the memory of the embeddings.
      local_views: smaller views of each image beside the two; 0 for none.
      phases: the first pass, and clustering before each epoch.
    """

    backbone: Any
    projector: Any
    prototypes: int
    clusterings: int
    temperature: float
    assignment: str
    iterations: int
    epsilon: float
    sinkhorn_iterations: int
    num_examples: int
    bank_dtype: str
    local_views: int
    phases: tuple[Phase, ...]

    @property
    def requires(self) -> frozenset[str]:
        return multicrop.requires(self.local_views) | {"index"}

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["views"][:, 0])
        dim, banks = self.projector.out, [str(crop) for crop in range(_CROPS)]
        directions = jax.random.normal(jax.random.fold_in(rng, 1), (self.clusterings, self.prototypes, dim))
        remembered = {
            "prototypes": networks.unit(directions),
            "bank": {
                "embeddings": {crop: bank.zeros(self.num_examples, dim, self.bank_dtype) for crop in banks},
                "assignments": jnp.full((bank.rows(self.num_examples), self.clusterings), -1, jnp.int32),
            },
        }
        return params, {"batch_stats": batch_stats}, remembered

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        remembered, index = state.objective_state, batch["index"]
        features, z, stats = multicrop.apply(self.modules, params, state.model_state["batch_stats"], batch)
        assignments = bank.read(remembered["bank"]["assignments"], index)
        loss, metrics = cluster_cross_entropy(z, remembered["prototypes"], assignments, temperature=self.temperature)
        newest = networks.unit(lax.stop_gradient(z))
        banks = {
            crop: bank.write(rows, index, newest[:, int(crop)])
            for crop, rows in remembered["bank"]["embeddings"].items()
        }
        remembered = {**remembered, "bank": {**remembered["bank"], "embeddings": banks}}
        return loss, LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=z)

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        """The examples: after the first pass each of them has a cluster."""
        return jnp.float32(len(batch["index"]))

    def observe(self, state: TrainState, batch: Batch, phase: Phase) -> PyTree:
        """Writes the embedding of a whole image into both banks."""
        del phase
        stats = state.model_state["batch_stats"]
        outputs, _ = networks.apply(self.modules, state.params, stats, batch["image"], train=False)
        z = networks.unit(outputs["projector"])
        embeddings = state.objective_state["bank"]["embeddings"]
        banks = {crop: bank.write(rows, batch["index"], z) for crop, rows in embeddings.items()}
        return {
            **state.objective_state,
            "bank": {**state.objective_state["bank"], "embeddings": banks},
        }

    def finish(self, state: TrainState, phase: Phase, rng: Array) -> tuple[PyTree, dict[str, Array]]:
        """Clusters the banks; rows that no embedding was written to are in no cluster."""
        remembered = state.objective_state
        if phase.reads:
            return remembered, {}
        found = []
        for head in range(self.clusterings):
            rows = remembered["bank"]["embeddings"][str(head % _CROPS)]
            found.append(self._clusters(jax.random.fold_in(rng, head), rows, jnp.any(rows != 0, axis=1)))
        assignments = jnp.stack([clusters.assignments for clusters in found], axis=1)
        sizes = jnp.stack([clustering.sizes(clusters.assignments, self.prototypes) for clusters in found])
        remembered = {
            "prototypes": jnp.stack([clusters.centroids for clusters in found]),
            "bank": {**remembered["bank"], "assignments": assignments},
        }
        return remembered, {
            "clusters_used": (sizes > 0).mean(),
            "largest_cluster": (sizes.max(axis=1) / sizes.sum(axis=1)).mean(),
        }

    def _clusters(self, rng: Array, rows: Array, valid: Array) -> clustering.Clusters:
        if self.assignment == "kmeans":
            k, iterations = self.prototypes, self.iterations
            return clustering.kmeans(rng, rows, valid, k=k, iterations=iterations, spherical=True)
        return clustering.balanced(
            rng,
            rows,
            valid,
            k=self.prototypes,
            iterations=self.iterations,
            epsilon=self.epsilon,
            sinkhorn_iterations=self.sinkhorn_iterations,
        )


@OBJECTIVES.register("deepcluster")
def deepcluster(
    *,
    backbone: Any,
    num_examples: int,
    batch_size: int,
    steps_per_epoch: int,
    local_views: int,
    assignment: str = "kmeans",
    prototypes: int = 3000,
    clusterings: int = 3,
    temperature: float = 0.1,
    iterations: int = 10,
    epsilon: float = 0.05,
    sinkhorn_iterations: int = 3,
    bank_dtype: str = "float32",
    projector_hidden: int = 2048,
    projector_dim: int = 128,
    groups: int = 1,
) -> DeepCluster:
    """Makes the objective; the defaults are the authors' for ImageNet."""
    if assignment not in ("kmeans", "sinkhorn"):
        raise UserError("deepcluster: assignment", got=repr(assignment), expected="kmeans or sinkhorn")
    check_above_zero("deepcluster", temperature=temperature, epsilon=epsilon)
    counts = {"clusterings": clusterings, "iterations": iterations, "sinkhorn_iterations": sinkhorn_iterations}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"deepcluster: {name}", got=value, expected="at least 1")
    bank.check("deepcluster", num_examples, batch_size)
    bank.check_dtype("deepcluster", bank_dtype)
    bank.check_clusters("deepcluster: prototypes", prototypes, num_examples)
    return DeepCluster(
        backbone=backbone,
        projector=Projector(layers=2, hidden=projector_hidden, out=projector_dim, last_norm=False, groups=groups),
        prototypes=prototypes,
        clusterings=clusterings,
        temperature=temperature,
        assignment=assignment,
        iterations=iterations,
        epsilon=epsilon,
        sinkhorn_iterations=sinkhorn_iterations,
        num_examples=num_examples,
        bank_dtype=bank_dtype,
        local_views=local_views,
        phases=(
            Phase("first pass", every=0, first=0, reads=True),
            Phase("clustering", every=steps_per_epoch, first=0, reads=False),
        ),
    )
