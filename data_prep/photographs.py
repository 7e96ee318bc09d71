"""What becomes of the official validation images of a collection whose test labels are secret, as ImageNet's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import hashlib

from radnet_jax.errors import UserError

OFFICIAL_VAL = ("halves", "test")


def check_official_val(dataset: str, official_val: str) -> None:
    """Refuses a value of the option --official_val that is none."""
    if official_val not in OFFICIAL_VAL:
        raise UserError(f"{dataset}: official_val", got=repr(official_val), expected=" or ".join(OFFICIAL_VAL))


def train_pool(official_val: str) -> str:
    """Splits that a training image may go to: also val, where the whole official validation set is the test split."""
    return "train" if official_val == "halves" else "train+val"


def val_pools(names: Iterable[str], official_val: str) -> Iterator[tuple[str, str]]:
    """(name, split) of the validation images of one class: all test, or by turns val and test in the order of a hash of
    their names. The halves depend on the names alone, so that everybody has the same ones.
    """
    if official_val == "test":
        yield from ((name, "test") for name in sorted(names))
        return
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    half = {name: ("val", "test")[place % 2] for place, name in enumerate(order)}
    yield from sorted(half.items())
