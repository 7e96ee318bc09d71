"""Which image codecs of this machine work: each decodes what was encoded, as a build does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
import io
from typing import Any

import numpy as np

# 8 x 8 values `_ramp`, of the two families that no package here can write.
_JPEG_LOSSLESS = base64.b64decode(
    "/9j/wwALDAAIAAgBAREA/8QAJAAAAAAAEQAAAAAAAAAAAAAAAAECAwQFBgcICQoLDA0ODxD/2gAIAQEAAQAAW+clEolEolEolDBLJZLJY8SyWMEwmD5M"
    "HyYTBgmkgmkgkE0kDBOJJJJJJJxJGCUSiUSiUSiUMEslksljxLJYwTCYPkwfJhM//9k="
)  # fmt: skip
_HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHcAAf+TwAAmG/gFB3QAAADAABLAABLAABGA3ACHdAD7AAd0AABjAMAAE8AAE8AAEoCA"
    "EPYAArQAwBD9AAGUAMzyE5MAwAArIAAVcAAKkEaJEZlx+gHJ3i3mAIRO5tkBI7ryf7cAyG75QCvuxFYA/9k="
)  # fmt: skip

_PIP_DICOM = "pip install pydicom pyjpegls pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pylibjpeg-rle"


def _ramp(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (1000 + 10 * x - 7 * y + (x * y) % 5).astype(np.uint16)


def check() -> Iterator[tuple[str, str, str]]:
    """Yields (codec, fault, how to mend it) of each family of compressed DICOM pixels, and of PNG and JPEG files.

    The fault is "" where all is well.
    """
    from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

    streams = {
        "JPEG lossless": (JPEGLosslessSV1, _JPEG_LOSSLESS),
        "JPEG-LS": (JPEGLSLossless, None),
        "JPEG 2000": (JPEG2000Lossless, None),
        "HTJ2K": (HTJ2KLossless, _HTJ2K),
        "RLE": (RLELossless, None),
    }
    for name, (syntax, stream) in streams.items():
        yield name, _fault_of_dicom(syntax, stream), _PIP_DICOM
    for name in ("PNG", "JPEG"):
        yield name, _fault_of_opencv(name), "pip install opencv-python-headless"


def _fault_of_dicom(syntax: Any, stream: bytes | None) -> str:
    """What is wrong with the decoder of a transfer syntax; "" where it gives back what was encoded."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian

    from data_prep.ingest.dicom.pixels import decode
    from data_prep.spec import Reject

    pixels = _ramp(8 if stream else 64)
    dataset = FileDataset(io.BytesIO(), {}, preamble=b"\0" * 128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    if stream == _HTJ2K:
        dataset.BitsStored, dataset.HighBit = 16, 15
    try:
        if stream is None:
            dataset.compress(syntax, pixels, generate_instance_uid=False)
        else:
            dataset.PixelData = encapsulate([stream])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.file_meta.TransferSyntaxUID = syntax
        found = decode(dataset, 0, raw=True)
    except Reject as error:
        return str(error)
    except Exception as error:  # each codec raises its own kinds
        return f"{type(error).__name__}: {error}"
    return "" if np.array_equal(found, pixels) else "it gives back other values"


def _fault_of_opencv(name: str) -> str:
    try:
        import cv2

        pixels = _ramp(64) if name == "PNG" else (_ramp(64) // 8).astype(np.uint8)
        _, encoded = cv2.imencode(f".{name.lower()}", pixels)
        found = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    near = found is not None and found.dtype == pixels.dtype and np.abs(found.astype(int) - pixels).max() < 10
    return "" if near else "it gives back other values"
