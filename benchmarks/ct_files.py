"""CT files for the benchmarks of data_prep: as many as are asked for, quickly, every one another instance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from data_prep.generated import mark_generated
from data_prep.phantom import draw_slice

PATIENT_SLICES = 20
_PICTURES = 16  # drawn; files of one picture differ in their header


def write_source(folder: Path, files: int, side: int, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Writes `files` CT slices of side x side pixels, PATIENT_SLICES a patient, as a source for `radnet`; returns it.

    Phantoms with scanner noise: noise compresses no better than that of real scans, and plain areas no worse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    regions = (("thorax", "CHEST"), ("abdomen", "ABDOMEN"), ("head/neck", "HEAD"), ("pelvis/hip", "PELVIS"))
    for picture in range(min(_PICTURES, files)):
        region, part = regions[picture % len(regions)]
        hu, _ = draw_slice(region, 0.5, side, (picture,), 0)
        data = _header(hu, part)
        if syntax != ExplicitVRLittleEndian:
            data.compress(syntax)
        for number in range(picture, files, _PICTURES):
            patient, slice_ = divmod(number // _PICTURES, PATIENT_SLICES)
            name = f"{picture}.{patient}"
            data.PatientID = f"P{name}"
            data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.3.{name}.1", f"1.2.3.{name}.2"
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{name}.3.{slice_}"
            data.InstanceNumber, data.ImagePositionPatient = str(slice_), [0, 0, 5.0 * slice_]
            path = folder / f"p{name}" / f"{slice_}.dcm"
            path.parent.mkdir(exist_ok=True)
            data.save_as(path, enforce_file_format=True)
    mark_generated(folder, "benchmarks.ct_files", {"files": files, "side": side, "syntax": str(syntax)})
    return folder


def _header(hu: np.ndarray, part: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality, data.BodyPartExamined = CTImageStorage, "1.2.3", "CT", part
    data.ImageType, data.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "SIEMENS"
    data.PatientSex, data.PatientAge = "F", "056Y"
    data.PixelSpacing, data.SliceThickness = ["0.7", "0.7"], "5"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.Rows, data.Columns = hu.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = "1", "-1024", "HU"
    data.PixelData = (hu + 1024).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    return data


def spoil(source: Path) -> dict[str, int]:
    """Adds ten bad files to a source of CT slices, each of another kind; returns the counts by reason to expect."""
    good = next(source.rglob("*.dcm"))
    folder = source / "bad"
    folder.mkdir()

    def bad(name: str, **fields: object) -> FileDataset:
        data = pydicom.dcmread(good)
        data.SOPInstanceUID = f"1.2.3.4.{len(name)}"
        for field, value in fields.items():
            setattr(data, field, value)
        return data

    def save(data: FileDataset, name: str) -> Path:
        data.save_as(folder / name)
        return folder / name

    cut = save(bad("cut"), "cut")
    cut.write_bytes(cut.read_bytes()[:-1000])
    broken = bad("broken")
    broken.compress(RLELossless)
    broken.PixelData = encapsulate([b"\x01\0\0\0" + b"\xff" * 80])
    save(broken, "broken")
    huge = bad("huger")
    huge.compress(JPEGLSLossless)
    huge.Rows = huge.Columns = 65535
    save(huge, "huge")
    save(bad("magnet", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "magnet")
    save(bad("scout..", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "scout")
    save(bad("capture.", SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "capture")
    no_slope = bad("no_slope.")
    del no_slope.RescaleSlope
    save(no_slope, "no_slope")
    (folder / "text").write_text("text")
    (folder / "empty").touch()
    (folder / "zz_copy").write_bytes(good.read_bytes())
    reasons = (
        "truncated", "undecodable", "memory_limit", "not_ct", "localizer", "secondary_capture", "missing_rescale",
        "not_dicom", "empty_file", "duplicate",
    )  # fmt: skip
    return dict.fromkeys(sorted(reasons), 1)
