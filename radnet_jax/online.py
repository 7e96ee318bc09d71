"""What a pretraining is worth while it runs: a linear probe trained beside it, and nearest neighbours now and then.

Neither touches the pretraining. Both are for watching: results come from `probe`, on a finished checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict
import numpy as np
import optax

from radnet_jax import sharding
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, probes
from radnet_jax.evaluation.metrics import METRICS, task_kinds
from radnet_jax.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from radnet_jax.objectives import Objective, kept_network
from radnet_jax.parts import Parts
from radnet_jax.state import TrainState

NEEDS = frozenset({"labels", "label_mask"})
_NEIGHBOURS = 20
_METRICS = ("accuracy", "auroc")
_TX = optax.adam(1e-3)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of the features that a pretraining makes of its views; no gradient goes back to them.

    Features are standardised by the mean and variance of the batch, so that one learning rate serves any backbone.

    Attributes:
      classes: classes or findings.
      multi_label: sigmoid by finding instead of softmax.
    """

    classes: int
    multi_label: bool

    def init(self, width: int) -> PyTree:
        """Returns the probe's state for features of so many dimensions: all zero."""
        params = {"weights": jnp.zeros((width, self.classes)), "bias": jnp.zeros(self.classes)}
        return {"params": params, "opt_state": _TX.init(params)}

    def update(
        self,
        state: PyTree,
        features: Float[Array, "b v d"],
        labels: Float[Array, "b k"],
        label_mask: Float[Array, "b k"],
    ) -> tuple[PyTree, Float[Array, ""], dict[str, Array]]:
        """Returns the state after one step of Adam, the loss, and what shows how good the probe was before the step.

        The latter is `probe_logits`, `probe_labels` and `probe_mask`, each [b*v k]. In the first epoch these images are
        new to the probe; later only their views are.
        """
        x = jax.lax.stop_gradient(features).astype(jnp.float32).reshape(-1, features.shape[-1])
        x = (x - x.mean(axis=0)) * jax.lax.rsqrt(x.var(axis=0) + 1e-5)
        labels, mask = (jnp.repeat(y.astype(jnp.float32), features.shape[1], axis=0) for y in (labels, label_mask))
        cross_entropy = sigmoid_cross_entropy if self.multi_label else softmax_cross_entropy

        def loss(params: PyTree) -> tuple[Array, Array]:
            logits = x @ params["weights"] + params["bias"]
            return cross_entropy(logits, labels, label_mask=mask), logits

        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, opt_state = _TX.update(gradient, state["opt_state"])
        new = {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}
        return new, value, {"probe_logits": logits, "probe_labels": labels, "probe_mask": mask}

    def metrics(self, watched: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
        """Returns `probe_accuracy`, or `probe_auroc` of a multi-label task, of the views of one batch.

        NaN where no label is known. The AUROC is the mean over the findings that the batch has both of; one batch says
        little of a rare finding.
        """
        logits, labels, mask = (watched[f"probe_{name}"] for name in ("logits", "labels", "mask"))
        if self.multi_label:
            return {"probe_auroc": jnp.nanmean(jax.vmap(_auroc, in_axes=1)(logits, labels, mask))}
        known = mask.min(axis=-1)
        hits = (logits.argmax(axis=-1) == labels.argmax(axis=-1)) * known
        return {"probe_accuracy": hits.sum() / known.sum()}


def linear_probe(config: ConfigDict, parts: Parts) -> LinearProbe | None:
    """Returns the probe that `config.online_probe` asks for."""
    card = parts.split.card
    return LinearProbe(len(card.labels), card.task == "multi_label") if config.online_probe else None


def _auroc(scores: Float[Array, " n"], labels: Float[Array, " n"], mask: Float[Array, " n"]) -> Float[Array, ""]:
    """Area under the ROC curve of one finding by midranks; NaN where there is one class."""
    known = mask > 0
    ordered = jnp.sort(jnp.where(known, scores, jnp.inf))
    ranks = (jnp.searchsorted(ordered, scores, side="left") + jnp.searchsorted(ordered, scores, side="right") + 1) / 2
    positive = known & (labels > 0.5)
    p, n = positive.sum().astype(jnp.float32), (known & ~positive).sum().astype(jnp.float32)
    return (jnp.sum(jnp.where(positive, ranks, 0.0)) / p - (p + 1) / 2) / n


def check(config: ConfigDict, parts: Parts, objective: Objective) -> None:
    """Refuses to watch by labels that are not there, or a run that is trained by them."""
    asked = [
        name for name, wanted in (("online_probe", config.online_probe), ("knn.every", config.knn.every)) if wanted
    ]
    if config.knn.every < 0 or config.knn.examples < 1:
        raise UserError(
            "config.knn", got=f"every={config.knn.every}, examples={config.knn.examples}", expected="at least 0 and 1"
        )
    if not asked:
        return
    if "labels" in objective.requires:
        raise UserError(
            f"config.{asked[0]} watches a pretraining, and objective {config.objective.name!r} is trained by labels",
            fix="watch its train_accuracy, or set config.select.every",
        )
    if config.online_probe:
        _check_labels("online_probe", parts.split)
    if config.knn.every:
        if config.knn.split == "test":
            raise UserError("config.knn.split is the test split", expected="val, or another that no result rests on")
        for split in (parts.split, open_split(config.data.dir, config.knn.split)):
            _check_labels("knn.every", split)
            if len(_sample(split, config)) <= _NEIGHBOURS:
                raise UserError(
                    f"config.knn.every needs more than {_NEIGHBOURS} labelled examples of split {split.name!r}",
                    got=len(_sample(split, config)),
                    fix="raise config.knn.examples, or set config.knn.every=0",
                )


def _check_labels(asked: str, split: Split) -> None:
    if split.card.task == "none" or not split.all_labels()[1].any():
        raise UserError(
            f"config.{asked} needs labels, and split {split.name!r} of dataset {split.card.name} has none",
            fix=f"set config.{asked} to {False if asked == 'online_probe' else 0}, or use a labelled dataset",
        )


class Neighbours:
    """Nearest neighbours in the features of some training examples, judged on some of a split that is held out.

    The examples are drawn once, by config.seed, from those whose labels are known. Weighted votes as in `probe`.
    """

    def __init__(self, config: ConfigDict, parts: Parts, objective: Objective):
        self._config, self._parts, self._objective = config, parts, objective
        if config.knn.every:
            splits = parts.split, open_split(config.data.dir, config.knn.split)
            self._train, self._held_out = (_Sample(split, _sample(split, config)) for split in splits)

    def due(self, step: int) -> bool:
        """Whether they are judged after `step` steps."""
        every = self._config.knn.every
        return bool(every) and (step % every == 0 or step == self._config.total_steps)

    def metrics(self, state: TrainState) -> dict[str, float]:
        """Returns `knn_accuracy` and `knn_auroc`, where they are defined for the task."""
        train, held_out = (self._outputs(state, sample) for sample in (self._train, self._held_out))
        scores = probes.knn_scores(train["features"], train["labels"], held_out["features"], neighbours=_NEIGHBOURS)
        task = self._parts.split.card.task
        return {
            f"knn_{name}": METRICS.get(name)(scores, held_out["labels"], held_out["label_mask"]).value
            for name in _METRICS
            if task in task_kinds(name)
        }

    def goal(self, metrics: Mapping[str, float]) -> float:
        """Returns the one of `metrics` that tells the best step of a run that is judged by nothing else."""
        return next(metrics[f"knn_{name}"] for name in _METRICS if f"knn_{name}" in metrics)

    def _outputs(self, state: TrainState, sample: _Sample) -> dict[str, np.ndarray]:
        params, model_state = sharding.replicate(kept_network(self._objective, state), self._parts.mesh)
        return evaluators.predict_split(
            evaluators.predict_of(self._objective),
            params,
            model_state,
            sample,  # type: ignore[arg-type]
            adapter=self._parts.adapter,
            batch_size=self._config.eval_batch_size,
            mesh=self._parts.mesh,
        )


def _sample(split: Split, config: ConfigDict) -> Int[np.ndarray, " n"]:
    known = np.flatnonzero(split.all_labels()[1].min(axis=1) > 0)
    drawn = np.random.default_rng(config.seed).permutation(known)[: config.knn.examples]
    return np.sort(drawn)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Some examples of a split, as if they were all there are."""

    split: Split
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def card(self) -> DatasetCard:
        return self.split.card

    def allocate(self, size: int) -> dict[str, np.ndarray]:
        return self.split.allocate(size)

    def read_into(self, batch: dict[str, np.ndarray], first: int, indices: Sequence[int]) -> None:
        self.split.read_into(batch, first, self.rows[np.asarray(indices)].tolist())

    @functools.cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        labels, mask = self.split.all_labels()
        return labels[self.rows], mask[self.rows]

    def all_labels(self) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        return self._labels
