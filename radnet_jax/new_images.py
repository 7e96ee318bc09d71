"""New images as a source of batches: read by the rules of `data_prep`, in the pixels that a model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import tempfile
import threading

from jaxtyping import Float
import numpy as np

from data_prep.datasets import table
from data_prep.ingest.files import walk
from data_prep.raw import look
from data_prep.spec import Candidate, DatasetSpec, Reject, Row
from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError

NAMES = ("hashed", "paths")
_READERS = threading.Lock()  # readers keep the last file at hand: one at a time
_NOTHING = {"mask": "", "patient": "", "labels": "", "split": "", "folder": ""}


@dataclasses.dataclass(frozen=True)
class NewImages:
    """Images that nobody has labelled: what `evaluators.predict_split` takes for a split.

    Attributes:
      card: of what the model was trained on.
      folder: that the rows' paths are below.
      rows: one for each image, slice or frame.
      rejected: {path: reason} of files that can't be used; grows while pixels are read.
      spec: how they are read.
    """

    card: DatasetCard
    folder: Path
    rows: tuple[Row, ...]
    rejected: dict[tuple[str, int], str]
    spec: DatasetSpec
    name = "new"

    def __len__(self) -> int:
        return len(self.rows)

    def allocate(self, size: int) -> dict[str, np.ndarray]:
        stored = self.card.stored
        image = np.empty((size, *stored.size, stored.channels), stored.dtype)
        return {"image": image, "segmentation": np.zeros((size, *stored.size), np.uint8)}

    def read_into(self, batch: dict[str, np.ndarray], first: int, indices: Sequence[int]) -> None:
        for place, index in enumerate(indices, first):
            row = self.rows[index]
            try:
                with _READERS:
                    batch["image"][place] = self.spec.encode(self.folder, row.path, row.frame)
            except Reject as reject:
                self.rejected[row.path, row.frame] = reject.reason
                batch["image"][place] = self.card.stored.value_range[0]

    def all_labels(self) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        nothing = np.zeros((len(self), len(self.card.labels)), np.float32)
        return nothing, nothing

    def names(self, kind: str) -> list[str]:
        """The name of each row's file: its path below the folder, or a hash of the file's content (SHA-256, 16 digits).

        Args:
          kind: "paths" or "hashed".
        """
        return self.names_of([row.path for row in self.rows], kind)

    def names_of(self, paths: Sequence[str], kind: str) -> list[str]:
        """The same of any paths below the folder; "unreadable" for files whose content can't be hashed."""
        return list(paths) if kind == "paths" else [self._hash(path) for path in paths]

    def _hash(self, path: str) -> str:
        try:
            return look(self.folder / path).sha256[:16]
        except Reject:
            return "unreadable"


def find(images: str | Path, card: DatasetCard, *, value_range: str = "", burned_in: str = "reject") -> NewImages:
    """Finds new images and reads their headers.

    Args:
      images: a folder, one file, or a table as data_prep's dataset "table" takes it (.csv, .tsv; masks and labels in it
        are not looked at).
      card: of what the model was trained on: modality, channels, size and resize rule are its.
      value_range: "low,high" of images of more than 8 bits, as for that dataset.
      burned_in: "reject" or "keep" images that say that there is text in their pixels.

    Raises:
      UserError: no such place, no image in it, or a kind of pixels that is read by no rule.
    """
    images, stored = Path(images), card.stored
    if not images.exists():
        raise UserError(f"no images at {images}", expected="a folder, a file or a table")
    if stored.size[0] != stored.size[1]:
        raise UserError("the model was trained on images that are not square", got=stored.size)
    folder = images if images.is_dir() else images.parent
    with tempfile.TemporaryDirectory() as temporary:
        listing = images if images.suffix.lower() in (".csv", ".tsv") else Path(temporary, "images.csv")
        if listing != images:
            listing.write_text("image\nx\n")
        spec = table.table(
            listing,
            stored.size[0],
            modality=stored.modality,
            channels=stored.channels,
            value_range=value_range,
            burned_in=burned_in,
            resize=stored.resize,
        )
        if (spec.stored.unit, spec.stored.value_range, spec.stored.dtype) != (
            stored.unit, stored.value_range, stored.dtype,
        ):  # fmt: skip
            raise UserError(
                "new images are not stored as those that the model was trained on",
                got=f"{spec.stored.unit} {spec.stored.value_range} {spec.stored.dtype}",
                expected=f"{stored.unit} {stored.value_range} {stored.dtype}",
            )
        if listing == images:
            candidates = [Candidate(c.path, {**c.entry, **_NOTHING}) for c in spec.candidates(folder)]
        else:
            paths = walk(images) if images.is_dir() else [images.name]
            candidates = [Candidate(path, {"image": path, **_NOTHING}) for path in paths]
    rows: list[Row] = []
    rejected: dict[tuple[str, int], str] = {}
    for candidate in candidates:
        try:
            rows += spec.rows(folder, candidate)
        except Reject as reject:
            rejected[candidate.path, 0] = reject.reason
    if not rows:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(rejected.values()).most_common(3))
        raise UserError(f"no image of {stored.modality} at {images}", got=reasons or "no file")
    return NewImages(card, folder, tuple(rows), rejected, spec)
