"""How many training examples there are of each class: what class weights and priors come from. Imports no jax."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError

_SHOWN = 5
_TOGETHER = 64  # records that are read at a time


@dataclasses.dataclass(frozen=True)
class Counts:
    """Labelled records of a split, or of a subset of it.

    Attributes:
      names: of the classes or findings.
      positive: records of each class, or with each finding, of those where it is known.
      known: records where the class, or the finding, is known.
    """

    names: tuple[str, ...]
    positive: tuple[int, ...]
    known: tuple[int, ...]

    def check(self, what: str) -> None:
        """Refuses labels that can't be learned, because no example has them.

        Args:
          what: whose labels these are, for the message.

        Raises:
          UserError: a class without a record, or a finding that no record has.
        """
        if missing := [name for name, n in zip(self.names, self.positive) if not n]:
            shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else "")
            raise UserError(
                f"{len(missing)} of {len(self.names)} classes are missing in {what}",
                got=f"no labelled record of {shown}",
                fix="take a larger subset, build the dataset with more in train or without these labels, or set "
                "--config.data.missing_classes=allow",
            )

    @property
    def one_sided(self) -> list[str]:
        """Findings that every record has for which they are known."""
        return [name for name, p, n in zip(self.names, self.positive, self.known) if p == n]


@functools.lru_cache(maxsize=16)
def count_labels(split: Split) -> Counts:
    """Counts the labels of a split, from its manifest (no image is read)."""
    if split.card.task == "single_label":  # one-hot rows of ImageNet-1k would take 5 GB
        classes = split.manifest()["label"].to_numpy()
        positive = np.bincount(classes[classes >= 0], minlength=len(split.card.labels))
        return Counts(split.card.labels, tuple(positive.tolist()), (int((classes >= 0).sum()),) * len(positive))
    labels, mask = split.all_labels()
    positive = np.sum(labels * mask, axis=0).astype(int).tolist()
    return Counts(split.card.labels, tuple(positive), tuple(np.sum(mask > 0, axis=0).tolist()))


@functools.lru_cache(maxsize=16)
def count_mask_classes(split: Split) -> Counts:
    """Looks whether each class of the masks stands in a record: 1 or 0 of `positive`, no matter in how many.

    Records are read in an order drawn once, until all classes were seen: all of them where one is missing.
    """
    names = split.card.segmentation
    seen = np.zeros(256, bool)
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    batch = split.allocate(min(_TOGETHER, len(order)))
    for first in range(0, len(order), _TOGETHER):
        indices = order[first : first + _TOGETHER]
        split.read_into(batch, 0, indices)
        seen |= np.bincount(batch["segmentation"][: len(indices)].ravel(), minlength=len(seen)) > 0
        if seen[1 : len(names) + 1].all():
            break
    return Counts(names, tuple(seen[1 : len(names) + 1].astype(int).tolist()), (len(split),) * len(names))
