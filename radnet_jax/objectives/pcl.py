"""PCL (Li et al., "Prototypical Contrastive Learning of Unsupervised Representations", 2021), and its version 2.

The versions differ in numbers: `configs/pretrain/pcl_v1.py` and `pcl_v2.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from radnet_jax import clustering
from radnet_jax.errors import UserError
from radnet_jax.losses.info_nce import info_nce
from radnet_jax.losses.proto_nce import concentration, draw_negatives, proto_nce
from radnet_jax.models.heads import Projector
from radnet_jax.objectives import OBJECTIVES, Batch, Phase, bank, networks
from radnet_jax.objectives.chain import Chain
from radnet_jax.objectives.moco import check_numbers, check_queue, enqueue, first_queue, target_keys
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class PCL(Chain):
    """A view finds its key, as in MoCo, and the prototypes of its image in several clusterings (equations 9 and 11).

    Before each epoch after the first ones the target network's embeddings of all images, each seen whole in eval mode,
    are clustered several times; centroids, scaled to length one, are the prototypes, and each has its concentration for
    a temperature (equation 12). Until then the loss is InfoNCE alone. The queue and the keys are MoCo's, whose
    docstring says what becomes of the shuffled BatchNorm.

    Departures from the authors' code: k-means starts from random rows and keeps a centroid that loses all rows where it
    is (theirs, of the library faiss, splits a large cluster); a clustering sees all rows however few centroids it has.
    What is clustered is the whole image, theirs the central 224 of 256 pixels. A prototype's temperature is not below a
    hundredth of the mean. As in their code, and beyond the paper, the prototypes of the batch's other images are among
    the negatives.

    Attributes:
      backbone: the network that is kept.
      projector: linear layer or MLP between features and loss.
      temperature: tau of InfoNCE, and the mean concentration.
      queue: keys that are remembered; a multiple of the batch.
      momentum: EMA coefficient of the target.
      clusters: prototypes of each clustering.
      negatives: prototypes that are drawn in a step for each clustering.
      iterations: moves of the centroids.
      restarts: of k-means, of which the best is kept.
      num_examples: of the train split.
      bank_dtype: "float32", or "bfloat16" for half of the memory of the embeddings.
      phases: clustering before each epoch, after a number of steps.
      groups: contiguous parts of the batch with BatchNorm statistics of their own.
    """

    backbone: Any
    projector: Any
    temperature: float
    queue: int
    momentum: float
    clusters: tuple[int, ...]
    negatives: int
    iterations: int
    restarts: int
    num_examples: int
    bank_dtype: str
    phases: tuple[Phase, ...]
    groups: int = 1

    requires = frozenset({"views", "index"})

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        params, batch_stats = networks.init(rng, self.modules, batch["views"][:, 0])
        dim = self.projector.out
        keys = jax.random.normal(jax.random.fold_in(rng, 1), (self.queue, dim))
        remembered = {
            "queue": first_queue(keys),
            "prototypes": {str(m): jnp.zeros((k, dim)) for m, k in enumerate(self.clusters)},
            "concentration": {str(m): jnp.full(k, self.temperature) for m, k in enumerate(self.clusters)},
            "bank": {
                "embeddings": bank.zeros(self.num_examples, dim, self.bank_dtype),
                "assignments": jnp.full((bank.rows(self.num_examples), len(self.clusters)), -1, jnp.int32),
            },
        }
        return params, {"batch_stats": batch_stats}, remembered

    def begin(self, state: TrainState) -> PyTree:
        target = networks.make_target(tuple(self.modules), state.params, state.model_state)
        return {**state.objective_state, "target": target}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        views, stats = batch["views"], state.model_state["batch_stats"]
        keys, remembered = target_keys(self.modules, state.objective_state, views[:, 1], self.groups)
        outputs, stats = networks.apply(self.modules, params, stats, views[:, 0], train=True)
        q = outputs["projector"]
        queue = lax.stop_gradient(remembered["queue"]["keys"])
        of_keys, metrics = info_nce(q, keys, queue, temperature=self.temperature)
        of_prototypes, more = self._of_prototypes(q, remembered, batch["index"], rng)
        metrics |= more | {"loss_at_chance": metrics["loss_at_chance"] + more["loss_at_chance"]}
        remembered = {**remembered, "queue": enqueue(remembered["queue"], keys)}
        compared = jnp.stack([networks.unit(q), keys], axis=1)
        features = outputs["backbone"][:, None]
        aux = LossAux({"batch_stats": stats}, remembered, metrics, features=features, embedding=compared)
        return of_keys + of_prototypes, aux

    def _of_prototypes(self, q: Array, remembered: PyTree, index: Array, rng: Array) -> tuple[Array, dict[str, Array]]:
        """ProtoNCE, the mean over the clusterings: 0 while there are none."""
        assignments = bank.read(remembered["bank"]["assignments"], index)
        results = []
        for m, k in enumerate(self.clusters):
            own = assignments[:, m]
            drawn = draw_negatives(jax.random.fold_in(rng, m), own, k, self.negatives)
            prototypes, phi = (remembered[name][str(m)] for name in ("prototypes", "concentration"))
            results.append(proto_nce(q, prototypes, phi, own, *drawn))
        return jax.tree.map(lambda *x: jnp.stack(x).mean(), *results)

    def after_update(self, state: TrainState) -> tuple[PyTree, PyTree]:
        remembered = state.objective_state
        target = networks.follow(remembered["target"], state.params, self.momentum)
        return state.params, {**remembered, "target": target}

    def observe(self, state: TrainState, batch: Batch, phase: Phase) -> PyTree:
        """Writes the target's embedding of a whole image into the bank."""
        del phase
        remembered = state.objective_state
        target, rows = remembered["target"], remembered["bank"]
        outputs, _ = networks.apply(self.modules, target["params"], target["batch_stats"], batch["image"], train=False)
        embeddings = bank.write(rows["embeddings"], batch["index"], networks.unit(outputs["projector"]))
        return {**remembered, "bank": {**rows, "embeddings": embeddings}}

    def finish(self, state: TrainState, phase: Phase, rng: Array) -> tuple[PyTree, dict[str, Array]]:
        """Clusters the bank; rows that no embedding was written to are in no cluster."""
        del phase
        remembered = state.objective_state
        rows = remembered["bank"]["embeddings"]
        valid = jnp.any(rows != 0, axis=1)
        assignments, prototypes, phi, used = [], {}, {}, []
        for m, k in enumerate(self.clusters):
            found = clustering.kmeans(
                jax.random.fold_in(rng, m),
                rows,
                valid,
                k=k,
                iterations=self.iterations,
                spherical=False,
                restarts=self.restarts,
            )
            apart = clustering.distances(rows, found)
            phi[str(m)] = concentration(apart, found.assignments, k, temperature=self.temperature)
            prototypes[str(m)] = networks.unit(found.centroids)
            assignments.append(found.assignments)
            used.append((clustering.sizes(found.assignments, k) > 0).mean())
        rows = {**remembered["bank"], "assignments": jnp.stack(assignments, axis=1)}
        new = {**remembered, "prototypes": prototypes, "concentration": phi, "bank": rows}
        return new, {"clusters_used": jnp.stack(used).mean()}


@OBJECTIVES.register("pcl")
def pcl(
    *,
    backbone: Any,
    num_examples: int,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
    groups: int = 1,
    temperature: float = 0.2,
    queue: int = 16384,
    momentum: float = 0.999,
    clusters: tuple[int, ...] = (25_000, 50_000, 100_000),
    negatives: int = 16384,
    warmup_steps: int = 0,
    iterations: int = 20,
    restarts: int = 5,
    bank_dtype: str = "float32",
    projector_layers: int = 2,
    projector_hidden: int = 2048,
    projector_dim: int = 128,
) -> PCL:
    """Makes the objective; the defaults are version 2's, for ImageNet. One layer is version 1's linear projector."""
    check_numbers("pcl", temperature=temperature, momentum=momentum)
    check_queue("pcl", queue, batch_size)
    bank.check("pcl", num_examples, batch_size)
    bank.check_dtype("pcl", bank_dtype)
    if not clusters:
        raise UserError("pcl: clusters", got=clusters, expected="one number for each clustering")
    for k in clusters:
        bank.check_clusters("pcl: clusters", k, num_examples)
    counts = {"negatives": (negatives, 1), "iterations": (iterations, 1), "restarts": (restarts, 1)}
    for name, (value, least) in (counts | {"warmup_steps": (warmup_steps, 0)}).items():
        if value < least:
            raise UserError(f"pcl: {name}", got=value, expected=f"at least {least}")
    if warmup_steps >= total_steps:
        raise UserError(
            "pcl: the run ends before its first clustering, as MoCo",
            got=f"objective.warmup_steps={warmup_steps}, total_steps={total_steps}",
            fix=f"set --config.objective.warmup_steps, to {total_steps // 10} for the paper's tenth of the run",
        )
    projector = Projector(
        layers=projector_layers, hidden=projector_hidden, out=projector_dim, norm=False, last_norm=False
    )
    return PCL(
        backbone=backbone,
        projector=projector,
        temperature=temperature,
        queue=queue,
        momentum=momentum,
        clusters=clusters,
        negatives=negatives,
        iterations=iterations,
        restarts=restarts,
        num_examples=num_examples,
        bank_dtype=bank_dtype,
        phases=(Phase("clustering", every=steps_per_epoch, first=warmup_steps, reads=True),),
        groups=groups,
    )
