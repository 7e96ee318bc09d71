"""Backbones, by name, and the small networks on top of them (Flax Linen)."""

from __future__ import annotations

from radnet_jax.registry import Registry

MODELS = Registry("model", "radnet_jax.models")
