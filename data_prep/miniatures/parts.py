"""What miniatures are made of: drawn radiographs and photographs, image files, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
import gzip
import io
from pathlib import Path
import struct

import cv2
from jaxtyping import Num, UInt8
import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from data_prep.dead_leaves import dead_leaves

ANATOMY = ("right lung", "left lung", "heart", "right clavicle", "left clavicle")  # right = of the patient


def photograph(seed: tuple[int, ...], height: int = 48, width: int = 64) -> UInt8[np.ndarray, "h w 3"]:
    """A dead-leaves image in RGB, cut to the asked shape."""
    return np.ascontiguousarray(dead_leaves(max(height, width), seed)[:height, :width])


def radiograph(
    seed: tuple[int, ...], height: int = 64, width: int = 64
) -> tuple[UInt8[np.ndarray, "h w"], dict[str, UInt8[np.ndarray, "h w"]]]:
    """A drawn frontal chest X-ray (bone bright, air dark) and a 0/1 mask of each part of ANATOMY."""
    rng = np.random.default_rng(seed)
    x0, y0 = 0.5 + rng.uniform(-0.03, 0.03, 2)
    wide = rng.uniform(0.9, 1.05)
    lung = rng.uniform(0.27, 0.31)
    centres = {
        "right lung": ((x0 - 0.2 * wide, y0), (0.13 * wide, lung), 4),
        "left lung": ((x0 + 0.2 * wide, y0), (0.12 * wide, lung), -4),
        "heart": ((x0 + 0.06, y0 + 0.13), (rng.uniform(0.12, 0.18), 0.13), 30),
        "right clavicle": ((x0 - 0.17 * wide, y0 - 0.27), (0.16, 0.018), 12),
        "left clavicle": ((x0 + 0.17 * wide, y0 - 0.27), (0.16, 0.018), -12),
    }
    shade = {"right lung": -90.0, "left lung": -90.0, "heart": 60.0, "right clavicle": 25.0, "left clavicle": 25.0}
    image = np.full((height, width), 20.0, np.float32)
    image[_ellipse((x0, y0 + 0.05), (0.42 * wide, 0.52), 0, height, width) > 0] = 150.0
    masks = {}
    for name in ANATOMY:
        masks[name] = _ellipse(*centres[name], height, width)
        image += shade[name] * masks[name]
    image = cv2.GaussianBlur(image, (0, 0), 0.01 * width + 0.3) + 4 * rng.standard_normal(image.shape, np.float32)
    return np.rint(image).clip(0, 255).astype(np.uint8), masks


def _ellipse(
    centre: tuple[float, float], axes: tuple[float, float], degrees: float, height: int, width: int
) -> UInt8[np.ndarray, "h w"]:
    mask = np.zeros((height, width), np.uint8)
    box = ((centre[0] * width, centre[1] * height), (2 * axes[0] * width, 2 * axes[1] * height), float(degrees))
    cv2.ellipse(mask, box, 1, -1)
    return mask


def write_image(path: Path, image: Num[np.ndarray, "h w"] | Num[np.ndarray, "h w 3"], *flags: int) -> None:
    """Writes a grey or RGB image in the format of the path's suffix; `flags` are of `cv2.imencode`."""
    ok, data = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, flags)
    if not ok:
        raise RuntimeError(f"no encoder for {path.suffix}")
    write_bytes(path, data.tobytes())


def write_gif(path: Path, mask: UInt8[np.ndarray, "h w"]) -> None:
    """Writes a 0/1 mask as a GIF of black and white. Its codes are not packed: the table is cleared before it grows, so
    that a pixel is a byte; OpenCV's encoder would dither.
    """
    height, width = mask.shape
    palette = b"\0\0\0\xff\xff\xff" + bytes(126 * 3)
    pixels = mask.tobytes()
    codes = b"".join(b"\x80" + pixels[k : k + 126] for k in range(0, len(pixels), 126)) + b"\x81"
    blocks = b"".join(bytes([len(codes[k : k + 255])]) + codes[k : k + 255] for k in range(0, len(codes), 255))
    frame = b"," + struct.pack("<4HBB", 0, 0, width, height, 0, 7) + blocks + b"\0"
    write_bytes(path, b"GIF89a" + struct.pack("<2H3B", width, height, 0xF6, 0, 0) + palette + frame + b";")


def write_dicom(path: Path, pixels: Num[np.ndarray, "h w"], sop_class: str, uid: str, **fields: object) -> None:
    """Writes grey pixels of 8 or 16 bits as an uncompressed DICOM file; `fields` are further elements by keyword."""
    with disable_value_validation():  # releases hold UIDs and ages that the standard doesn't know
        dataset, meta = Dataset(), FileMetaDataset()
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID = UID(sop_class)
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        bits = 8 * pixels.dtype.itemsize
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        for name, value in fields.items():
            setattr(dataset, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
        file.save_as(path, enforce_file_format=True)


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_csv(
    path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] = (), *, delimiter: str = ","
) -> None:
    """Writes a table with a header line, gzipped where the name ends in .gz; columns are the first row's by default."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
