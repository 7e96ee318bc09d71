"""Sources full of values that identify a patient, each another one, to be searched in what is built from them."""

import csv

import nibabel
import numpy as np
from PIL import Image, PngImagePlugin
import pydicom
from pydicom.dataset import Dataset

from tests.data_prep.dicom_files import write_dicom, write_enhanced

BURNED_IN = 3777  # stored value of files that say of themselves that names are burned in
UIDS, DATES = ("1.2.826.0.1.3680043.9.7133", "19310417")
# Attributes that PS3.15 table E.1-1 removes, cleans or replaces, by the kind of value that is planted in them.
TEXTS = (
    "AccessionNumber", "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "CurrentPatientLocation",
    "DerivationDescription", "DeviceSerialNumber", "EthnicGroup", "ImageComments", "InstitutionAddress",
    "InstitutionName", "InstitutionalDepartmentName", "IssuerOfPatientID", "Manufacturer", "ManufacturerModelName",
    "MedicalAlerts", "Occupation", "OperatorsName", "OtherPatientIDs", "PatientAddress", "PatientComments", "PatientID",
    "PatientMotherBirthName", "PatientName", "PatientTelephoneNumbers", "PerformingPhysicianName", "ProtocolName",
    "PhysiciansOfRecord", "ReferringPhysicianName", "RequestedProcedureDescription", "RequestingPhysician",
    "SeriesDescription", "SoftwareVersions", "StationName", "StudyDescription", "StudyID",
)  # fmt: skip
DAYS = ("AcquisitionDate", "ContentDate", "PatientBirthDate", "SeriesDate", "StudyDate")
TIMES = ("AcquisitionTime", "PatientBirthTime", "SeriesTime", "StudyTime")
IDS = ("FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID")


class Planted:
    """Values that no dataset holds by itself, each another one."""

    def __init__(self):
        self.values = []

    def _keep(self, value):
        self.values.append(value)
        return value

    def text(self):
        return self._keep(f"Zq{len(self.values):04d}Xw")

    def uid(self):
        return self._keep(f"{UIDS}.{len(self.values)}.1")

    def day(self):
        return self._keep(str(int(DATES) + len(self.values) % 10))

    def time(self):
        return self._keep(f"134211.{len(self.values):06d}")


def _fill(data, planted):
    for name in TEXTS:
        setattr(data, name, planted.text())
    data.Manufacturer = f"GE {data.Manufacturer}"
    for name in DAYS:
        setattr(data, name, planted.day())
    for name in TIMES:
        setattr(data, name, planted.time())
    data.AcquisitionDateTime = f"{planted.day()}{planted.time()}"
    for name in IDS:
        setattr(data, name, planted.uid())
    data.PatientSex, data.PatientAge = "F", "067Y"
    data.PatientWeight = planted._keep("71.337133")
    inner = Dataset()
    inner.ReferencedSOPInstanceUID, inner.PatientID, inner.CodeMeaning = planted.uid(), planted.text(), planted.text()
    data.ReferencedStudySequence = [inner]
    private = data.private_block(0x0029, planted.text(), create=True)
    private.add_new(0x10, "LO", planted.text())
    private.add_new(0x11, "UN", planted.text().encode())
    private.add_new(0x12, "SQ", [inner])
    data.file_meta.SourceApplicationEntityTitle = planted.text()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.preamble = planted.text().encode().ljust(128, b"\0")
    return data


def _dicom(path, pixels, planted, enhanced=False, **fields):
    if enhanced:
        write_enhanced(path, pixels, [(0, 0, k) for k in range(len(pixels))])
    else:
        write_dicom(path, pixels)
    data = _fill(pydicom.dcmread(path), planted)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path)


def ct_source(root, planted):
    """Patients with everything that can name them, bad files among them; folders and files are named after them too."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        folder = root / f"{planted.text()} {planted.text()}"
        study, series, patient = planted.uid(), planted.uid(), planted.text()
        for k in range(2):
            same = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "PatientID": patient, "InstanceNumber": k}
            _dicom(folder / f"{planted.text()}.dcm", rng.integers(0, 4000, (16, 16)).astype(np.uint16), planted, **same)
        burned = np.full((16, 16), BURNED_IN, np.uint16)
        _dicom(folder / f"{planted.text()}_b", burned, planted, PatientID=patient, BurnedInAnnotation="YES")
    pixels = rng.integers(0, 4000, (3, 16, 16)).astype(np.uint16)
    _dicom(root / f"{planted.text()}.dcm", pixels, planted, enhanced=True)
    _dicom(root / f"{planted.text()}.dcm", pixels[0], planted, Rows=0)
    (root / f"{planted.text()}.txt").write_text(planted.text())
    cut = root / planted.text()
    _dicom(cut, pixels[0], planted, PatientID=patient)
    cut.write_bytes(cut.read_bytes()[:-100])


def _image_file(path, array, planted):
    """A PNG, JPEG or TIFF with everything a camera or an archive writes into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Patient", planted.text())
        info.add_text("Comment", planted.text(), zip=True)
        info.add_itxt("Description", planted.text())
        image.save(path, pnginfo=info)
        return
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x9286):  # description, artist, copyright, user comment
        exif[tag] = planted.text()
    exif[0x0132] = f"1931:04:1{len(planted.values) % 10} 13:42:11"
    planted.values.append(exif[0x0132])
    image.save(path, exif=exif, **({"comment": planted.text()} if path.suffix == ".jpg" else {}))


def image_source(root, planted):
    rng = np.random.default_rng(0)
    for k in range(12):
        name = f"{planted.text()}{('.png', '.jpg')[k % 2]}"
        _image_file(root / f"class {k % 3}" / name, rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), planted)
    (root / "class 0" / f"{planted.text()}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + planted.text().encode())


def _volume(path, planted, dtype=np.int16):
    image = nibabel.Nifti1Image(np.arange(16 * 16 * 2, dtype=dtype).reshape(16, 16, 2) % 2, np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = planted.text()
    note = f"{planted.text()} {planted.uid()}".encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", note))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def table_source(root, planted):
    """Images of all kinds in one table with columns that nobody asked for; returns the table."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(18):
        folder = root / planted.text()
        suffix = (".dcm", ".png", ".tif", ".nii.gz", ".npy", "")[k % 6]
        path, mask = folder / f"{planted.text()}{suffix}", folder / f"{planted.text()}.png"
        array = rng.integers(0, 255, (16, 16)).astype(np.uint8)
        if suffix in (".dcm", ""):
            _dicom(path, array.astype(np.uint16) * 16, planted)
        elif suffix == ".nii.gz":
            _volume(path, planted)
            mask = folder / f"{planted.text()}.nii"
            _volume(mask, planted, np.uint8)
        elif suffix == ".npy":
            folder.mkdir(parents=True)
            np.save(path, array.astype(np.int16))
        else:
            _image_file(path, array, planted)
        if not mask.exists():
            _image_file(mask, (array > 99).astype(np.uint8), planted)
        extra = [planted.text(), planted.day()]
        patient = planted.text() if k % 4 else ""
        rows.append([path.relative_to(root), mask.relative_to(root), patient, ("x|y", "y", "none")[k % 3], "", *extra])
    rows.append([f"{planted.text()}.png", "", planted.text(), "x", "", planted.text(), planted.day()])
    table = root / f"{planted.text()}.csv"
    with table.open("w", newline="") as file:
        columns = ["image", "mask", "patient", "labels", "split", "remark", "born"]
        csv.writer(file).writerows([columns, *rows])
    return table
