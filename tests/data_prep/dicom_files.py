"""Small CT files for the tests, with every field open to change."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def write_dicom(path: Path, pixels: np.ndarray, *, remove: tuple[str, ...] = (), meta_class=CTImageStorage, **fields):
    """Writes 16-bit `pixels` as CT Image Storage; `fields` overrides, `remove` deletes."""
    data = Dataset()
    data.SOPClassUID = meta_class
    data.SOPInstanceUID = f"1.2.3.{abs(hash(str(path))) % 10**12}"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality = "CT"
    data.PatientID = "P1"
    data.PatientName = "Name^Of"
    data.BodyPartExamined = "CHEST"
    data.StudyInstanceUID = "1.2.3.1"
    data.SeriesInstanceUID = "1.2.3.2"
    data.InstanceNumber = "1"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 0]
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    for name in remove:
        delattr(data, name)
    data["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = meta_class
    meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or "1.2.3.9"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset(str(path), data, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
    return path


def source_of_patients(root: Path, patients: int = 12, slices: int = 2, size: int = 16, **fields) -> Path:
    """Patients in turn of the six regions, one series each; file names run against the slice normal."""
    parts = ("HEAD", "CHEST", "ABDOMEN", "KNEE", "PELVIS", "SPINE")
    rng = np.random.default_rng(0)
    for p in range(patients):
        for k in range(slices):
            write_dicom(
                root / f"p{p}" / f"{k}.dcm",
                rng.integers(0, 2000, (size, size)).astype(np.uint16),
                **{
                    "PatientID": f"patient-{p}",
                    "StudyInstanceUID": f"1.9.{p}",
                    "SeriesInstanceUID": f"1.9.{p}.1",
                    "SOPInstanceUID": f"1.9.{p}.1.{k}",
                    "BodyPartExamined": parts[p % 6],
                    "ImagePositionPatient": [0, 0, -5.0 * k],
                    "InstanceNumber": str(k),
                }
                | fields,
            )
    return root
