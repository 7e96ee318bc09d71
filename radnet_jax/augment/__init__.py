"""Views and augmentation on the device: one independent draw for each example; recipes by name."""

from __future__ import annotations

from radnet_jax.registry import Registry

AUGMENTATIONS = Registry("augmentation", "radnet_jax.augment")
