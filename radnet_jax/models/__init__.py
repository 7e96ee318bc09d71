"""Backbones and decoders, by name, and the small networks on top of them (Flax Linen)."""

from __future__ import annotations

from radnet_jax.registry import Registry

MODELS = Registry("model", "radnet_jax.models")

DECODERS = Registry("decoder", "radnet_jax.models")
"""From a backbone's maps to logits of each pixel; see `unet.UNet` for what one takes and gives."""
