"""What factories of backbones and objectives check of their arguments, and backbones of an image's size."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import jax
from jaxtyping import Array, Float

from radnet_jax.errors import UserError

DTYPES = ("float32", "bfloat16")


def compute_dtype(name: str) -> Any:
    """Returns the dtype of activations called `name`; one that is neither float32 nor bfloat16 is refused."""
    check_choice("compute dtype", name, DTYPES)
    return jax.dtypes.canonicalize_dtype(name)


def check_choice(what: str, got: str, valid: Sequence[str]) -> None:
    """Refuses a name that is not one of `valid`."""
    if got not in valid:
        raise UserError(f"unknown {what}", got=repr(got), expected=f"one of {', '.join(valid)}")


def check_positive(model: str, **values: int) -> None:
    """Refuses arguments of a model that are no whole numbers above 0."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{model}: {name}", got=repr(value), expected="a whole number above 0")


def check_above_zero(what: str, **values: float) -> None:
    """Refuses arguments that are no finite numbers above 0, such as a temperature."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{what}: {name}", got=value, expected="more than 0, and finite")


def check_four(model: str, **values: Sequence[int]) -> None:
    """Refuses arguments of a model that are not four whole numbers above 0, one for each stage."""
    for name, value in values.items():
        if len(value) != 4 or any(not isinstance(v, int) or v < 1 for v in value):
            raise UserError(f"{model}: {name}", got=value, expected="four whole numbers above 0, one for each stage")


def check_size(model: str, image: Float[Array, "b h w c"], *, least: int, multiple: int = 1) -> None:
    """Refuses images that a backbone can't take, when it is traced.

    Args:
      model: name for the message.
      image: images; height and width are checked.
      least: smallest side, in pixels.
      multiple: what both sides must be a multiple of.
    """
    height, width = image.shape[1:3]
    if min(height, width) < least or height % multiple or width % multiple:
        multiples = f"multiples of {multiple}, " if multiple > 1 else ""
        raise UserError(
            f"{model} can't take images of this size",
            got=f"{height}x{width}",
            expected=f"height and width of {multiples}at least {least}",
            fix="change the size of the input, or of the views",
        )
