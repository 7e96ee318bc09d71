"""Stored values out of pixel data, and Hounsfield units out of stored values.

Standard: DICOM PS3.5 8.1.1 (bits), PS3.3 C.7.5.1.1.2 (pixel padding), C.11.1 (Modality LUT).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import cv2
from jaxtyping import Bool, Int, Int16, UInt
import numpy as np
from pydicom.dataset import FileDataset
from pydicom.pixels import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import RLELossless

from data_prep.guard import check_memory
from data_prep.ingest.dicom.codecs import choose, pixel_bytes
from data_prep.ingest.dicom.plain import Elements, Plain
from data_prep.ingest.dicom.tags import frame_count
from data_prep.spec import Reject

_PIXEL_OPTIONS = {  # what pydicom's decoders have to know of bytes
    "rows": "Rows", "columns": "Columns", "samples_per_pixel": "SamplesPerPixel", "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored", "pixel_representation": "PixelRepresentation",
    "photometric_interpretation": "PhotometricInterpretation",
}  # fmt: skip


class Layout(NamedTuple):
    """Where the bits of a stored value stand in its word, and which words are padding.

    Attributes:
      bits: length of a word.
      stored: bits that count.
      high: place of the highest of them.
      signed: whether they are two's complement.
      padding: lowest and highest padding value as the header writes them; None without.
    """

    bits: int
    stored: int
    high: int
    signed: bool
    padding: tuple[int, int] | None

    def values(self, words: UInt[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Stored values of words; bits above and below the ones that count (old overlays) play no part."""
        shift = self.high + 1 - self.stored
        values = (words.astype(np.int64) >> shift) & ((1 << self.stored) - 1)
        if self.signed:
            sign = 1 << (self.stored - 1)
            values = (values ^ sign) - sign
        return values

    def is_padding(self, words: UInt[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Where words are padding: as a value of the bits that count, or as a whole word that sets others as well."""
        if self.padding is None:
            return np.zeros(words.shape, bool)
        ends = sorted(self._wrapped(value, self.bits) for value in self.padding)
        whole = words.astype(np.int64)
        if self.signed:
            whole = (whole ^ (1 << (self.bits - 1))) - (1 << (self.bits - 1))
        found = (whole >= ends[0]) & (whole <= ends[1])
        low, high = (-(1 << (self.stored - 1)), 1 << (self.stored - 1)) if self.signed else (0, 1 << self.stored)
        if low <= ends[0] and ends[1] < high:
            values = self.values(words)
            found |= (values >= ends[0]) & (values <= ends[1])
        return found

    def _wrapped(self, value: int, bits: int) -> int:
        """The header's number in this layout's sign: writers give -2000 as 63536 and the reverse."""
        value &= (1 << bits) - 1
        return value - (1 << bits) if self.signed and value >> (bits - 1) else value


def layout(dataset: Elements) -> Layout:
    """The layout that a checked header describes."""
    stored = int(dataset.BitsStored)
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    padding = None
    if isinstance(first, int):
        padding = (first, last if isinstance(last, int) else first)
    high = int(dataset.get("HighBit", stored - 1))
    return Layout(int(dataset.BitsAllocated), stored, high, bool(dataset.get("PixelRepresentation") or 0), padding)


def stored_words(dataset: Elements, frame: int) -> tuple[UInt[np.ndarray, "h w"], Layout]:
    """Decodes one frame of one-channel pixel data to words as they stand in the file, and their layout.

    Raises:
      Reject: no_pixel_data, truncated, size_mismatch, undecodable, unsupported_bits, memory_limit.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    described = layout(dataset)
    if isinstance(dataset, Plain) and not dataset.encapsulated:
        check_memory(rows * columns * described.bits // 8)
        words = np.frombuffer(dataset.pixels, f"<u{described.bits // 8}", rows * columns)
        return words.reshape(rows, columns), described
    array = decode(dataset, frame, raw=True)
    if array.shape != (rows, columns) or array.dtype.kind not in "iu":
        raise Reject("undecodable", f"decoded to {array.dtype} {array.shape}, header says {(rows, columns)}")
    bits = array.dtype.itemsize * 8
    if bits != described.bits:  # codecs give the smallest word that holds their precision
        if bits <= described.high or described.high != described.stored - 1:
            raise Reject("undecodable", f"{bits} bits decoded, high bit {described.high}")
        described = described._replace(bits=bits)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{array.dtype.itemsize}"), described


def decode(dataset: Elements, frame: int, *, raw: bool) -> np.ndarray:
    """Decodes one frame; `raw` leaves values as they are stored, else colours are brought to RGB.

    Raises:
      Reject: as `stored_words`.
    """
    pixels, _ = pixel_bytes(dataset)
    if not pixels:
        raise Reject("no_pixel_data")
    frames, samples = frame_count(dataset), int(dataset.get("SamplesPerPixel") or 1)
    length = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8
    check_memory(length)
    syntax, plugin = choose(dataset, frame)
    if not syntax.is_encapsulated:
        subsampled = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
        if len(pixels) < (length * 2 // 3 if subsampled else length) * frames:
            raise Reject("truncated", f"{len(pixels)} bytes for {frames} frame(s) of {length}")
    try:
        source: Any = pixels
        if isinstance(dataset, FileDataset):
            dataset.file_meta.TransferSyntaxUID = syntax  # pydicom decodes nothing under another name
            source = dataset
        decoder = get_decoder(syntax)
        shifted = int(dataset.get("HighBit", dataset.BitsStored - 1)) != dataset.BitsStored - 1
        if shifted and syntax.is_encapsulated and syntax != RLELossless:
            raise Reject("unsupported_bits", "shifted bits in a JPEG")
        options: dict[str, Any] = {"number_of_frames": frames, "allow_excess_frames": False}
        if raw:
            options |= {"correct_unused_bits": False, "view_only": not syntax.is_encapsulated}
        if isinstance(dataset, Plain):
            options |= {option: dataset[keyword] for option, keyword in _PIXEL_OPTIONS.items()}
        array, _ = decoder.as_array(source, index=frame, raw=raw, decoding_plugin=plugin, **options)
        return array
    except (MemoryError, Reject, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each decoder raises its own kinds; the panic of a Rust one is no Exception
        raise Reject("undecodable", f"{type(error).__name__}: {error}") from error


def hu_of_words(
    words: UInt[np.ndarray, "*n"],
    described: Layout,
    transform: Callable[[np.ndarray], np.ndarray],
    value_range: tuple[float, float],
) -> Int16[np.ndarray, "*n"]:
    """Hounsfield units of words: transformed in float64, rounded once half to even, clipped; padding is the lowest."""
    hu = np.rint(transform(described.values(words))).clip(*value_range)
    hu[described.is_padding(words)] = value_range[0]
    return hu.astype(np.int16)


@functools.lru_cache(maxsize=16)
def _table(
    described: Layout, slope: float, intercept: float, value_range: tuple[float, float]
) -> Int16[np.ndarray, " n"]:
    words = np.arange(1 << described.bits, dtype=f"u{described.bits // 8}")
    return hu_of_words(words, described, lambda v: v.astype(np.float64) * slope + intercept, value_range)


def hounsfield(
    dataset: Elements, frame: int, transform: tuple[float, float] | None, value_range: tuple[float, float]
) -> Int16[np.ndarray, "h w"]:
    """Hounsfield units of one frame.

    Args:
      dataset: a checked CT file.
      frame: number of the frame, from 0.
      transform: slope and intercept, or None for the header's modality LUT.
      value_range: lowest and highest value kept.
    """
    words, described = stored_words(dataset, frame)
    if transform is None:
        assert isinstance(dataset, FileDataset)  # with a modality LUT no file is plain
        return hu_of_words(words, described, lambda v: apply_modality_lut(v, dataset).astype(np.float64), value_range)
    slope, intercept = transform
    if described.bits <= 16:  # one look-up for each pixel, through a table that the slices of a series share
        return cv2.LUT(words, _table(described, slope, intercept, value_range))
    return hu_of_words(words, described, lambda v: v.astype(np.float64) * slope + intercept, value_range)
