"""How a study's config names what a task has for one label fraction only.

Config files call it, and they are read before the compiler's flags are set: nothing here may import jax.
"""

from __future__ import annotations


def at(protocol: str, fraction: float) -> str:
    """Name of a task's config for a protocol at a label fraction."""
    return protocol if fraction == 1 else f"{protocol}@{fraction:g}".replace(".", "_")
