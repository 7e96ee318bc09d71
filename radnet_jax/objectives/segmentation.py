"""Segmentation: a decoder on the backbone's maps, trained with all of it, or on a backbone that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError
from radnet_jax.losses import segmentation as losses
from radnet_jax.models import DECODERS
from radnet_jax.models.checks import check_choice
from radnet_jax.objectives import OBJECTIVES, Batch, Defaults
from radnet_jax.preprocessing import UNKNOWN_MASK
from radnet_jax.state import LossAux, TrainState

LOSSES = ("cross_entropy", "binary_cross_entropy", "focal", "soft_dice", "dice_cross_entropy")
ACTIVATIONS = (losses.SOFTMAX, losses.SIGMOID)


@dataclasses.dataclass(frozen=True)
class Segmentation(Defaults):
    """Logits of each pixel, for classes that exclude each other; unknown pixels (255) count in no loss.

    Attributes:
      backbone: the network that is fine-tuned.
      decoder: from its maps to logits, see `models.DECODERS`.
      loss_name: one of LOSSES; "dice_cross_entropy" is the sum of the two.
      activation: "softmax", with a logit for the background, or "sigmoid", with one for each class beside it.
      class_weights: of cross entropies and the focal loss; empty for equal ones.
      per_image: Dice sums over each image, not over the batch.
      gamma: of the focal loss.
      frozen: the backbone in eval mode, and without a gradient: its optimizer must leave it alone too
        (`optimizer.frozen`).
      groups: parts of the batch that know nothing of each other: statistics of BatchNorm, and sums and means of the
        loss, whose value is the mean over them.
    """

    backbone: Any
    decoder: Any
    loss_name: str
    activation: str
    class_weights: tuple[float, ...]
    per_image: bool
    gamma: float
    frozen: bool
    groups: int

    requires = frozenset({"image", "segmentation"})
    heads = r"decoder/.*"
    judged = "masks"

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        # The backbone is the one that any other objective begins with for the same key, as in `networks.init`.
        key, rest = jax.random.split(rng)
        image = batch["image"]
        backbone = self.backbone.init(key, image, train=False)
        maps = jax.eval_shape(lambda v: self.backbone.apply(v, image, train=False), backbone)
        maps = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), maps)
        decoder = self.decoder.init(jax.random.fold_in(rest, 0), maps, image.shape[1:3], train=False)
        parts = {"backbone": backbone, "decoder": decoder}
        stats = {name: v.get("batch_stats", {}) for name, v in parts.items()}
        return {name: v["params"] for name, v in parts.items()}, {"batch_stats": stats}, {}

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        del rng
        stats = state.model_state["batch_stats"]
        logits, maps, new_stats = self._apply(params, stats, batch["image"], train=True)
        target = batch["segmentation"]
        parts = [(x.reshape(self.groups, -1, *x.shape[1:])) for x in (logits, target)]
        loss = jnp.mean(jax.vmap(self._loss)(*parts)) if self.groups > 1 else self._loss(logits, target)
        known = (target != UNKNOWN_MASK).astype(jnp.float32)
        hits = (classes(logits, self.activation) == target) * known
        metrics = {"train_pixel_accuracy": hits.sum() / jnp.maximum(known.sum(), 1.0)}
        features = maps["pooled"][:, None]
        return loss, LossAux({"batch_stats": new_stats}, state.objective_state, metrics, features=features)

    def _loss(self, logits: Float[Array, "b h w k"], target: Int[Array, "b h w"]) -> Float[Array, ""]:
        weights, sigmoids = self.class_weights, self.activation == losses.SIGMOID
        if self.loss_name == "focal":
            return losses.focal(logits, target, class_weights=weights, gamma=self.gamma, activation=self.activation)
        loss = jnp.zeros(())
        if self.loss_name in ("soft_dice", "dice_cross_entropy"):
            loss += losses.soft_dice(logits, target, activation=self.activation, per_image=self.per_image)
        if self.loss_name != "soft_dice":
            entropy = losses.binary_cross_entropy if sigmoids else losses.cross_entropy
            loss += entropy(logits, target, class_weights=weights)
        return loss

    def _apply(
        self, params: PyTree, stats: Mapping[str, PyTree], image: Array, *, train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Any], dict[str, PyTree]]:
        """Returns the logits, what the backbone gave, and the batch statistics."""
        size, new = image.shape[1:3], dict(stats)

        def run(name: str, train: bool, *args: Any) -> Any:
            module, variables = getattr(self, name), {"params": params[name], "batch_stats": stats[name]}
            if not train:
                return module.apply(variables, *args, train=False)
            out, updates = module.apply(variables, *args, train=True, mutable=["batch_stats"])
            new[name] = updates.get("batch_stats", {})
            return out

        maps = run("backbone", train and not self.frozen, image)
        if self.frozen:
            maps = jax.lax.stop_gradient(maps)
        return run("decoder", train, maps, size), maps, new

    @property
    def weight(self) -> Callable[[Batch, Array], Float[Array, ""]] | None:  # type: ignore[override]
        """The known pixels and their weights, where the loss is a mean over them; else the whole batch is needed."""
        if self.groups > 1 or self.loss_name in ("soft_dice", "dice_cross_entropy"):
            return None
        return self._pixels

    def _pixels(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        target = batch["segmentation"]
        counts = (target != UNKNOWN_MASK).astype(jnp.float32)
        if self.class_weights and self.loss_name == "cross_entropy" and self.activation == losses.SOFTMAX:
            counts *= jnp.asarray(self.class_weights, jnp.float32)[jnp.where(counts > 0, target, 0)]
        return counts.sum()

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        """Returns "features", and "logits" [b h w c] of each value of the mask, the background's (0) first."""
        logits, maps, _ = self._apply(params, model_state["batch_stats"], batch["image"], train=False)
        if self.activation == losses.SIGMOID:
            # The background's logit is 0: a class is predicted where its probability is over one half, the likeliest
            # where several are.
            logits = jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (1, 0)))
        return {"features": maps["pooled"], "logits": logits}


def classes(logits: Float[Array, "b h w k"], activation: str) -> Int[Array, "b h w"]:
    """Returns the predicted value of the mask of each pixel."""
    best = jnp.argmax(logits, axis=-1)
    return best if activation == losses.SOFTMAX else jnp.where(logits.max(axis=-1) > 0, best + 1, 0)


@OBJECTIVES.register("segmentation")
def segmentation(
    *,
    backbone: Any,
    card: DatasetCard,
    groups: int = 1,
    decoder: Mapping[str, Any] | None = None,
    loss: str = "dice_cross_entropy",
    activation: str = losses.SOFTMAX,
    class_weights: Sequence[float] = (),
    per_image: bool = False,
    gamma: float = 2.0,
    frozen: bool = False,
) -> Segmentation:
    """Makes the objective for the masks of `card`; `decoder` is {"name": ..., and what that one takes}.

    Raises:
      UserError: a dataset without masks, an unknown name, weights that are not one for each logit, or given to a loss
        that has none.
    """
    if not card.segmentation:
        raise UserError(
            f"objective 'segmentation' needs masks and dataset {card.name} has none",
            fix="build a dataset with masks: lits, brats, siim_acr, montgomery, drive, jsrt, busi, or a table of yours",
        )
    check_choice("loss of masks", loss, LOSSES)
    check_choice("activation", activation, ACTIVATIONS)
    if loss == "binary_cross_entropy" and activation != losses.SIGMOID:
        raise UserError("binary cross entropy is of sigmoids", got=f"activation {activation!r}", expected="sigmoid")
    if loss == "cross_entropy" and activation != losses.SOFTMAX:
        raise UserError("cross entropy is of a softmax", got=f"activation {activation!r}", expected="softmax")
    out = len(card.segmentation) + (activation == losses.SOFTMAX)
    if class_weights and (len(class_weights) != out or loss == "soft_dice"):
        names = [*(["background"] if activation == losses.SOFTMAX else []), *card.segmentation]
        raise UserError(
            "class_weights do not fit the loss",
            got=f"{len(class_weights)} for {loss}",
            expected="none" if loss == "soft_dice" else f"{out}, of {', '.join(names)}",
        )
    if gamma < 0:
        raise UserError("gamma of the focal loss", got=gamma, expected="0 or more")
    section = dict(decoder or {"name": "unet"})
    name = str(section.pop("name", ""))
    arguments = {"dtype": jnp.dtype(backbone.dtype).name}  # that of the backbone, where none is given
    arguments |= {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
    return Segmentation(
        backbone=backbone,
        decoder=DECODERS.build(name, arguments, out=out, groups=groups),
        loss_name=loss,
        activation=activation,
        class_weights=tuple(class_weights),
        per_image=per_image,
        gamma=gamma,
        frozen=frozen,
        groups=groups,
    )
