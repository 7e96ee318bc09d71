"""What a dataset is, to the builder: which files may be images, what each is, how its pixels are stored.

A dataset is one module of `data_prep/datasets` that registers a factory returning a `DatasetSpec`; everything that
needs the disk, a process pool or a secret stands in the builder, so that a spec stays a handful of pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from jaxtyping import Num, UInt8
import numpy as np

from data_prep.hashing import Salt
from data_prep.ingest.files import walk
from radnet_jax.data.card import Member
from radnet_jax.preprocessing import StoredPixels
from radnet_jax.registry import Registry

DATASETS = Registry("dataset", "data_prep.datasets")
FILE_SOURCES = ("table", "mixture")  # datasets whose source is a file that lists the images
SPLIT_NAMES = ("train", "val", "test")
GENERATED_MARKER = ".generated"  # in a source folder: its images are generated, hence of no patient


class Reject(Exception):  # noqa: N818 (an outcome of reading a file, not an error of the program)
    """A file that can't be used.

    Attributes:
      reason: code of the reason; goes to the console and to build.json, so it must never hold a value of the file.
      detail: free text for `rejected/rejected.jsonl`, which stays private.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may become a record: its path below the source, and what a table of the source says about it."""

    path: str
    entry: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One planned record. Identifiers in it stay in the private plan; records hold salted hashes of them.

    Attributes:
      path: the file, relative to the source.
      identity: what `case_id` is hashed from; a second row of the same identity is rejected as a duplicate.
      patient: whose image it is; a patient's rows never part. "" = not known; where `links` don't say it either, the
        file counts as a patient, and the build says so. Ids of a hospital are written "id X", so that they match
        between its datasets; those of a public collection, which its owner has numbered, start with the owner's name
        ("nih X"), so that they match with nobody else's.
      stratum: what splits are balanced by (see `splits.py`).
      label: class index, -1 = unlabelled (task single_label).
      labels: one 0 or 1 for each finding (task multi_label).
      label_mask: 1 where the finding is known (task multi_label).
      series: the stack the image is a slice of, or "".
      frame: number of the image in its file (frame of a multi-frame file, slice of a volume), from 0.
      plane: name of the slice's orientation; positions of one series are compared only where all of its slices have
        the same.
      position: place along the slice normal in mm, where known.
      shift: place of the first pixel along the row and the column direction in mm, where known.
      size: rows and columns of the image as it is in the file; None: not known before the pixels (PNG, JPEG, ...).
      spacing: mm from the centre of a pixel to the next, between rows and between columns; None where the file does
        not say it.
      thickness: of the slice in mm as the file says it, which need not be the distance to the next.
      mask: file of the segmentation, relative to the source, or "".
      instance: the slice's own number, which orders a series whose positions are not all known.
      links: what else is of one patient, widest first: its study, its series; "" = not known. Rows that share the
        patient or a link are of one patient, whatever their other names are. Names that start with "file " or
        "folder " mean nothing outside this source.
      pool: "" = may go to any split; else the splits it may go to, joined by "+" (official lists, split folders).
      facts: group facts by name; only names in `DatasetSpec.facts` are kept.
      asked: whether the options of the dataset want the image; others are counted, and no more.
      carried: values of the manifest that are known already, since the row is a record of a built dataset: hashed ids
        and hashes of the file and the picture.
    """

    path: str
    identity: str
    patient: str
    stratum: int = -1
    label: int = -1
    labels: tuple[int, ...] = ()
    label_mask: tuple[int, ...] = ()
    series: str = ""
    frame: int = 0
    plane: str = ""
    position: float | None = None
    shift: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    mask: str = ""
    instance: int | None = None
    links: tuple[str, ...] = ()
    pool: str = ""
    facts: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    asked: bool = True
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mixed:
    """What a dataset made of built datasets takes over from them.

    Attributes:
      members: with their records in each split; records of a split stand in the order of the members.
      salt: under which the ids of the rows are hashed already; without its value.
      generated: whether all images are generated.
    """

    members: tuple[Member, ...]
    salt: Salt
    generated: bool

    def asked(self, splits: Iterable[str]) -> tuple[Member, ...]:
        """The members with their records in these splits only."""
        names = tuple(splits)
        return tuple(
            dataclasses.replace(m, splits={name: m.splits.get(name, 0) for name in names}) for m in self.members
        )


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A dataset, as pure functions of files; pickled into worker processes.

    Attributes:
      name: as in `--dataset`.
      version: raised when the rules change what a record holds.
      task: "single_label", "multi_label" or "none".
      labels: class or finding names in index order.
      stored: what the stored pixels are.
      facts: allow-list of group facts that go into the manifest.
      candidates: source -> the files that may be records, in a stable order; opens no image.
      rows: (source, candidate) -> the rows of its images (frames, slices); none only where an option leaves out
        its one image. Reads the header only where that tells enough; raises Reject.
      encode: (source, path below it, frame) -> pixels (h, w, c) as `stored` says; raises Reject.
      single_file: whether a record is read from its own file (and its mask) alone, so that those of a remote source
        can be fetched one by one.
      no_patients: whether the images are of nobody (photographs), so that ids need no secret salt.
      tables: files below the source whose content (lists, labels) is a rule of the dataset.
      folder: where paths start if that is not the source itself.
      files: source -> the files that the dataset is made of; a change of one is a change of the source.
      segmentation: names of the mask values 1, 2, ...; empty without masks.
      scaling: how values without a unit were brought to the stored range, where files keep another one.
      encode_mask: (source, path of the image, path of its mask, frame) -> mask (h, w) of stored.size; raises Reject.
      mixed: for a dataset made of built datasets.
    """

    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    stored: StoredPixels
    facts: tuple[str, ...]
    candidates: Callable[[Path], Iterator[Candidate]]
    rows: Callable[[Path, Candidate], Sequence[Row]]
    encode: Callable[[Path, str, int], Num[np.ndarray, "h w c"]]
    single_file: bool = False
    no_patients: bool = False
    tables: tuple[str, ...] = ()
    folder: Path | None = None
    files: Callable[[Path], Iterator[str]] = walk
    segmentation: tuple[str, ...] = ()
    scaling: str = ""
    encode_mask: Callable[[Path, str, str, int], UInt8[np.ndarray, "h w"]] | None = None
    mixed: Mixed | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (*self.stored.size, self.stored.channels)

    def rules(self) -> dict[str, Any]:
        """What the records mean, as JSON: part of every fingerprint."""
        optional = {"segmentation": list(self.segmentation), "scaling": self.scaling}
        return {
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "labels": list(self.labels),
            "stored": self.stored.to_json(),
        } | {name: value for name, value in optional.items() if value}
