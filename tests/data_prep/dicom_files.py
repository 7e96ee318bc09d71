"""Small CT files for the tests, with every field open to change."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    remove: tuple[str, ...] = (),
    meta_class=CTImageStorage,
    padding: bytes | None = None,
    syntax=ExplicitVRLittleEndian,
    **fields,
):
    """Writes `pixels` as CT Image Storage; `fields` overrides, `remove` deletes, `padding` are the raw bytes of
    PixelPaddingValue, whatever sign the rest of the header has.
    """
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
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    if padding is not None:
        data.add_new("PixelPaddingValue", "US", int.from_bytes(padding, "little"))
    for name in remove:
        delattr(data, name)
    data["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = meta_class
    meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or "1.2.3.9"
    meta.TransferSyntaxUID = syntax
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


def write_enhanced(path: Path, pixels: np.ndarray, positions, *, shared: dict | None = None, frames=None, **fields):
    """Writes `pixels` (n, h, w) as Enhanced CT, frames at `positions` (x, y, z), slope k + 1 in frame k.

    `shared` replaces the shared functional groups, `frames` changes the groups of a frame (called with k and its item).
    """

    def item(**values):
        data = Dataset()
        for name, value in values.items():
            setattr(data, name, value)
        return data

    groups = []
    for k, position in enumerate(positions):
        group = item(
            PlanePositionSequence=[item(ImagePositionPatient=list(position))],
            PixelValueTransformationSequence=[
                item(RescaleSlope=str(k + 1), RescaleIntercept="-1000", RescaleType="HU")
            ],
            CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1)],
        )
        if frames:
            frames(k, group)
        groups.append(group)
    common = {"PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]}
    return write_dicom(
        path,
        pixels,
        meta_class=EnhancedCTImageStorage,
        remove=("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient"),
        NumberOfFrames=str(len(pixels)),
        SharedFunctionalGroupsSequence=[item(**(common if shared is None else shared))],
        PerFrameFunctionalGroupsSequence=groups,
        **fields,
    )
