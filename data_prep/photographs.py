"""Collections of photographs whose test labels are secret, as ImageNet's: splits, and what their specs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import functools
import hashlib
from pathlib import Path, PurePosixPath

from jaxtyping import UInt8
import numpy as np

from data_prep.ingest.image import fit
from data_prep.ingest.reduced import read_reduced
from data_prep.spec import Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

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


def photographs(
    name: str,
    size: int,
    labels: tuple[str, ...],
    candidates: Callable[[Path], Iterator[Candidate]],
    identity: Callable[[PurePosixPath], str],
    unknown: str,
    tables: tuple[str, ...],
) -> DatasetSpec:
    """A collection of one class an image.

    Args:
      name: as in `--dataset`.
      size: height and width of the records.
      labels: class names in index order.
      candidates: source -> the images, each with its "label" ("" = none of the classes) and "pool".
      identity: path of an image -> what tells it from all others.
      unknown: reason of the rejection of images without a label.
      tables: files below the source that say which labels there are.
    """
    return DatasetSpec(
        name=name,
        version="1.0.0",
        task="single_label",
        labels=labels,
        stored=StoredPixels("photo", "none", (0.0, 255.0), (size, size), 3, "stretch_area", "uint8"),
        facts=(),
        candidates=candidates,
        rows=functools.partial(_rows, identity=identity, unknown=unknown),
        encode=functools.partial(_encode, size=size),
        single_file=True,
        no_patients=True,
        tables=tables,
        files=functools.partial(_files, candidates=candidates, tables=tables),
    )


def _files(
    source: Path, *, candidates: Callable[[Path], Iterator[Candidate]], tables: tuple[str, ...]
) -> Iterator[str]:
    yield from tables
    for candidate in candidates(source):
        yield candidate.path


def _rows(source: Path, candidate: Candidate, *, identity: Callable[[PurePosixPath], str], unknown: str) -> list[Row]:
    path, entry = PurePosixPath(candidate.path), candidate.entry
    if path.suffix.lower() not in (".jpeg", ".jpg", ".png"):
        raise Reject("not_an_image_name", path.suffix)
    if not (source / path).is_file():
        raise Reject("missing_file")
    if not entry["label"]:
        raise Reject(unknown)
    label = int(entry["label"])
    return [
        Row(path=candidate.path, identity=identity(path), patient="", stratum=label, label=label, pool=entry["pool"])
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 3"]:
    return fit(read_reduced(source / path, 3, size), (size, size), "stretch_area", 0)
