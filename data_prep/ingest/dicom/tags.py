"""Reads data sets: with or without preamble, quietly, and only the elements that are needed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import os
from pathlib import Path
import struct
from typing import Any, BinaryIO
import warnings

import pydicom
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_prep.ingest.dicom.plain import HEADER_TAGS, PIXELS, START, Elements, PixelValue, read_plain
from data_prep.spec import Reject

BROKEN = (
    ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError, OverflowError,
    BytesLengthException,
)  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences pydicom and the decoders: their warnings and log lines quote the values of the file."""
    before = pydicom_config.settings.reading_validation_mode
    loggers = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "jpeg_ls")
    levels = {name: logging.getLogger(name).level for name in loggers}
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom_config.settings.reading_validation_mode = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def read_header(path: Path) -> Elements:
    """Reads the elements of HEADER_TAGS.

    Raises:
      Reject: as `read`.
    """
    return read_plain(path, pixels=False) or read(path, header_only=True)


def read(path: Path, *, header_only: bool) -> FileDataset:
    """Reads a file's data set by pydicom; `pixel_value` of it says where the pixels are that a header leaves out.

    Raises:
      Reject: empty_file, unreadable, truncated, not_dicom, memory_limit (a deflated bomb).
    """
    tags: list[Any] | None = list(HEADER_TAGS) if header_only else None
    try:
        if not path.is_file():  # a pipe or a device would block
            raise Reject("unreadable", "not a regular file")
        if path.stat().st_size == 0:
            raise Reject("empty_file")
        try:
            with path.open("rb") as file:
                dataset = pydicom.dcmread(file, stop_before_pixels=header_only, specific_tags=tags)
                dataset.pixel_value = _pixel_value(file, dataset) if header_only else None
        except InvalidDicomError:
            return _read_bare(path, header_only)
        if not len(dataset):  # pydicom drops all that it has read at an end that comes too early
            raise Reject("truncated", "the data set breaks off")
        return dataset
    except (Reject, MemoryError):
        raise
    except (OSError, EOFError) as error:
        raise Reject("truncated" if isinstance(error, EOFError) else "unreadable", str(error)) from error
    except Exception as error:  # a broken header can raise anything in the parser
        raise Reject("not_dicom", f"{type(error).__name__}: {error}") from error


def _pixel_value(file: BinaryIO, dataset: FileDataset) -> PixelValue | None:
    """Where the pixels lie, after which pydicom has left the file at their element; None without."""
    size, place = os.fstat(file.fileno()).st_size, file.tell()
    implicit, little = dataset.original_encoding
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return PixelValue(0, size, b"", size)
    head = file.read(8 if implicit else 12)
    order = "<" if little else ">"
    try:
        group, element = struct.unpack_from(f"{order}HH", head)
        (length,) = struct.unpack_from(f"{order}I", head, 4 if implicit else 8)
    except struct.error:
        return None
    return PixelValue(place + len(head), length, file.read(START), size) if group << 16 | element == PIXELS else None


def _read_bare(path: Path, header_only: bool) -> FileDataset:
    """Old archives keep data sets without preamble and file meta; such a file must say itself that it is an image."""
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=header_only)
            dataset.pixel_value = _pixel_value(file, dataset) if header_only else None
        bare = bool(dataset.get("SOPClassUID")) and bool(dataset.get("Rows"))
    except MemoryError:
        raise
    except Exception as error:
        raise Reject("not_dicom", f"{type(error).__name__}: {error}") from error
    if not bare:
        raise Reject("not_dicom")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def text(dataset: Dataset | Elements, name: str) -> str:
    """The value of an element as stripped text, "" where it is absent or empty."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip().strip("\0")


def values(dataset: Dataset | Elements, name: str) -> list[Any]:
    """The values of an element as a list, whatever its multiplicity; [] where it is absent or empty."""
    value = dataset.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def frame_count(dataset: Elements) -> int:
    """NumberOfFrames; 1 where it is absent, empty or zero, as some writers leave it on single images."""
    return max(1, int(dataset.get("NumberOfFrames") or 1))


def functional_group(dataset: Elements, frame: int, name: str) -> Dataset | None:
    """A functional group of an enhanced image (PS3.3 C.7.6.16): the frame's own, else the one that all frames share."""
    per_frame, shared = values(dataset, "PerFrameFunctionalGroupsSequence"), values(dataset, SHARED)
    for groups in (per_frame[frame : frame + 1], shared[:1]):
        for item in groups:
            found = values(item, name)
            if found:
                return found[0]
    return None


SHARED = "SharedFunctionalGroupsSequence"
