"""Which pretraining is best for my medical imaging task, by how much, how sure are we, at what label budget?"""

import importlib
from typing import Any

__version__ = "0.1.0"


def load(path_or_name: str) -> Any:
    """Returns a backbone that takes raw images: `features = radnet_jax.load("PATH_OR_NAME")(images)`.

    See `radnet_jax.weights.use`, which is imported when it is needed: this package alone imports nothing heavy.
    """
    return importlib.import_module("radnet_jax.weights.use").load(path_or_name)
