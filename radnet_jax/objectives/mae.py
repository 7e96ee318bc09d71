"""MAE (He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from radnet_jax.errors import UserError
from radnet_jax.losses.masked_pixels import masked_pixels, patchify
from radnet_jax.models.checks import check_positive
from radnet_jax.models.masked import MaskedDecoder, permuted
from radnet_jax.models.vit import ViT
from radnet_jax.objectives import OBJECTIVES, Batch, Defaults, networks
from radnet_jax.state import LossAux, TrainState


@dataclasses.dataclass(frozen=True)
class MAE(Defaults):
    """From some of an image's patches, the pixels of the others (section 3). One view; the encoder sees no mask tokens.

    Each example has its own random patches, keyed by the step and its row of the global batch.

    Departures from the paper: none in the loss. What the online probe sees are the features of the visible patches.

    Attributes:
      backbone: a ViT, the encoder; kept.
      decoder: used by the loss only.
      mask_ratio: share of the patches that the encoder does not see.
    """

    backbone: ViT
    decoder: MaskedDecoder
    mask_ratio: float

    requires = frozenset({"image"})
    heads = r"decoder/.*"

    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        image = batch["image"]
        params, batch_stats = networks.init(rng, {"backbone": self.backbone}, image)
        rows, columns = grid = self.backbone.grid(image)
        encoded = jnp.zeros((1, 1 + self._visible(rows * columns), self.backbone.width))
        restore = jnp.arange(rows * columns)[None]
        values = self.backbone.patch**2 * image.shape[-1]
        decoder = self.decoder.init(jax.random.fold_in(rng, 1), encoded, restore, grid, values)
        stats = {**batch_stats, "decoder": {}}
        return {**params, "decoder": decoder["params"]}, {"batch_stats": stats}, {}

    def _visible(self, patches: int) -> int:
        visible = int(patches * (1 - self.mask_ratio))
        if not 0 < visible < patches:
            raise UserError(
                "mae: mask_ratio leaves no patch to see, or none to predict",
                got=f"{self.mask_ratio} of {patches} patches",
                fix="change the ratio, the size of the input or config.backbone.patch",
            )
        return visible

    def loss(self, params: PyTree, state: TrainState, batch: Batch, rng: Array) -> tuple[Float[Array, ""], LossAux]:
        image, encoder = batch["image"], {"params": params["backbone"]}
        tokens: Any = self.backbone.apply(encoder, image, method="embed")
        order, restore = shuffles(rng, *tokens.shape[:2])
        visible = self._visible(tokens.shape[1])
        seen = permuted(tokens, order, restore)[:, :visible]
        encoded: Any = self.backbone.apply(encoder, seen, train=True, method="encode")
        patches = patchify(image, self.backbone.patch)
        decoder, grid = {"params": params["decoder"]}, self.backbone.grid(image)
        predictions: Any = self.decoder.apply(decoder, encoded, restore, grid, patches.shape[-1])
        loss = masked_pixels(predictions, patches, restore >= visible)
        features = encoded[:, 0] if self.backbone.pool == "cls" else encoded[:, 1:].mean(axis=1)
        return loss, LossAux(state.model_state, state.objective_state, {}, features=features[:, None])

    def weight(self, batch: Batch, rng: Array) -> Float[Array, ""]:
        return jnp.float32(len(batch["image"]))  # each example has as many masked patches

    def predict(self, params: PyTree, model_state: PyTree, batch: Batch) -> dict[str, Array]:
        return networks.features({"backbone": self.backbone}, params, model_state, batch["image"])


def shuffles(rng: Array, examples: int, patches: int) -> tuple[Int[Array, "b n"], Int[Array, "b n"]]:
    """Returns a random order of the patches of each example, and where each patch stands in it."""
    order = jnp.argsort(jax.random.uniform(rng, (examples, patches)), axis=1)
    return order, jnp.argsort(order, axis=1)


@OBJECTIVES.register("mae")
def mae(
    *,
    backbone: ViT,
    mask_ratio: float = 0.75,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
) -> MAE:
    """Makes the objective; the defaults are the paper's (section 4.1). A backbone that is no ViT is refused."""
    if not isinstance(backbone, ViT):
        raise UserError(
            "mae shows its backbone some of an image's patches, and this one can't do without the others",
            got=type(backbone).__name__,
            expected="a vision transformer",
            fix="set --config.backbone.name=vit_base",
        )
    if not 0 < mask_ratio < 1:
        raise UserError("mae: mask_ratio", got=mask_ratio, expected="more than 0, less than 1")
    check_positive("mae", decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
    if decoder_width % 4 or decoder_width % decoder_heads:
        raise UserError("mae: decoder_width", got=decoder_width, expected=f"a multiple of 4 and {decoder_heads} heads")
    decoder = MaskedDecoder(
        width=decoder_width,
        depth=decoder_depth,
        heads=decoder_heads,
        dtype=backbone.dtype,
    )
    return MAE(backbone=backbone, decoder=decoder, mask_ratio=mask_ratio)
