"""Generated data: CT series as genuine DICOM files, and natural-image-like dead leaves.

    python -m data_prep.phantom --out=DIR --kind=ct|leaves

Deterministic: one seed, one set of bytes. A marker in the folder lets the builder mark the dataset as generated.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path
import sys

import cv2
from jaxtyping import Int16, UInt8
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from data_prep.anatomy import REGIONS
from data_prep.ct_canvas import MASK_VALUES, OVERSAMPLING, Canvas, Draws, draw_view, scanner_noise
from data_prep.dead_leaves import dead_leaves
from data_prep.flags import Flags
from data_prep.generated import generated_with, mark_generated
from data_prep.spec import GENERATED_MARKER
from radnet_jax.errors import UserError

__all__ = ["BODY_PARTS", "MASK_VALUES", "draw_slice", "write_ct", "write_leaves"]
GENERATOR = "data_prep.phantom"
VERSION = 1  # raised when the same options give other bytes
FIELD_OF_VIEW_MM = 420.0
# What scanners write for each region: the rules of the radnet dataset have to understand all of them.
BODY_PARTS = {
    "head/neck": ("HEAD", "SKULL", "BRAIN", "NECK", "KOPF"),
    "thorax": ("CHEST", "THORAX", "TORSO"),
    "abdomen": ("ABDOMEN", "OBERBAUCH", "ABD"),
    "extremities": ("LEG", "KNEE", "ARM", "EXTREMITY", "KNIE"),
    "pelvis/hip": ("PELVIS", "HIP", "BECKEN"),
    "spine": ("LSPINE", "SPINE", "LWS", "BWS"),
}

# A scan of the trunk reaches a little into the next region, and its slices keep the label of the series:
# region -> (from t, to t, region seen there, its t).
OVERLAPS: dict[str, tuple[tuple[float, float, str, float], ...]] = {
    "thorax": ((0.0, 0.1, "abdomen", 0.9),),
    "abdomen": ((0.0, 0.1, "pelvis/hip", 0.95), (0.9, 1.0, "thorax", 0.03)),
    "pelvis/hip": ((0.9, 1.0, "abdomen", 0.1),),
}


def write_ct(
    out: str | os.PathLike[str],
    *,
    patients_per_region: int = 20,
    slices: int = 10,
    image_size: int = 96,
    seed: int = 0,
) -> Path:
    """Writes a CT corpus, one series a patient, as DICOM CT Image Storage; returns `out`, a source for `radnet`.

    Masks of liver, lung, brain and their lesions lie beside it: one uint8 array [slices, size, size] a patient, with
    the values of `MASK_VALUES`, in the folder named as `out` with "_masks" added.

    Args:
      out: new or empty folder; a corpus of the same options is left alone.
      patients_per_region: patients of each of the six body regions.
      slices: of each patient.
      image_size: rows and columns.
      seed: of everything.

    Raises:
      UserError: an option out of range, a folder that holds something else, a full disk.
    """
    _check(seed, patients_per_region=patients_per_region, slices=slices)
    options: dict[str, object] = {
        "kind": "ct", "patients_per_region": patients_per_region, "slices": slices, "image_size": image_size,
        "seed": seed,
    }  # fmt: skip
    out = Path(out)
    if not _start(out, options, image_size):
        return out
    masks = out.with_name(out.name + "_masks")
    try:
        masks.mkdir(exist_ok=True)
        for number in range(patients_per_region * len(REGIONS)):
            region = list(REGIONS)[number % len(REGIONS)]  # regions take turns, so no order of files gives them away
            _write_patient(out, masks, number, region, slices, image_size, seed)
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror})", fix="free some space or give another --out"
        ) from error
    mark_generated(out, GENERATOR, _told(options))
    return out


def write_leaves(out: str | os.PathLike[str], *, images: int = 1000, image_size: int = 96, seed: int = 0) -> Path:
    """Writes dead-leaves images as PNG files without classes; returns `out`, a source for `image_folder`.

    Args and errors: as `write_ct`; `images` is their number.
    """
    _check(seed, images=images)
    options: dict[str, object] = {"kind": "leaves", "images": images, "image_size": image_size, "seed": seed}
    out = Path(out)
    if not _start(out, options, image_size):
        return out
    try:
        for number in range(images):
            ok, data = cv2.imencode(
                ".png", dead_leaves(image_size, (seed, number))[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]
            )
            if not ok:
                raise RuntimeError("PNG encoding failed")
            (out / f"leaves_{number:06d}.png").write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror})", fix="free some space or give another --out"
        ) from error
    mark_generated(out, GENERATOR, _told(options))
    return out


def draw_slice(
    region: str, t: float, size: int, patient: tuple[int, ...], number: int
) -> tuple[Int16[np.ndarray, "s s"], UInt8[np.ndarray, "s s"]]:
    """Draws one slice.

    Args:
      region: a key of REGIONS.
      t: place along the region, in [0, 1].
      size: height and width in pixels.
      patient: seed of everything that the patient's slices share.
      number: seed of what only this slice has (noise).

    Returns:
      Hounsfield units clipped to [-1024, 3071], and the mask with MASK_VALUES.
    """
    patient_rng = np.random.default_rng(patient)
    view = draw_view(patient_rng)
    canvas = Canvas(size, view.transform)
    canvas.blob(0, view.table, 1.3, 0.09, -250)
    canvas.blob(0, view.table + 0.015, 1.25, 0.06, -930)
    seen = [(other, at) for low, high, other, at in OVERLAPS.get(region, ()) if low <= t < high]
    shown, place = seen[0] if seen else (region, t)
    REGIONS[shown](canvas, Draws(patient_rng), place)
    rng = np.random.default_rng((*patient, number + 1))
    hu = cv2.resize(canvas.hu, (size, size), interpolation=cv2.INTER_AREA)
    hu = cv2.GaussianBlur(hu, (0, 0), view.sharpness)
    soft = (hu > -300).astype(np.float32)
    texture = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), 2.5) * 2.5 * 3.5
    hu = hu + soft * texture * 10 + scanner_noise(rng, size) * view.noise
    return np.rint(hu).clip(-1024, 3071).astype(np.int16), canvas.mask[::OVERSAMPLING, ::OVERSAMPLING].copy()


def _check(seed: int, **counts: int) -> None:
    if seed < 0:
        raise UserError("seed", got=seed, expected="0 or more")
    for name, n in counts.items():
        if n < 1:
            raise UserError(name, got=n, expected="at least 1")


def _start(out: Path, options: dict[str, object], image_size: int) -> bool:
    """Whether there is anything to write. An interrupted corpus has no marker and is written over."""
    if not 32 <= image_size <= 1024:
        raise UserError("image_size", got=image_size, expected="32 to 1024 pixels")
    unfinished = out / f"{GENERATED_MARKER}.unfinished"
    wanted = json.dumps(_told(options), sort_keys=True)
    if generated_with(out, GENERATOR, _told(options)):
        return False
    ours = unfinished.is_file() and unfinished.read_text() == wanted
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out {out} holds something else", fix="give --out a new or empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(wanted)
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror})", fix="free some space or give another --out"
        ) from error
    return True


def _told(options: dict[str, object]) -> dict[str, object]:
    return options | {"version": VERSION}


def _uid(*parts: object) -> str:
    """A UID under the root for UUID-derived ones (PS3.5 B.2), the same for the same parts."""
    return f"2.25.{int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:15], 'big')}"


def _write_patient(out: Path, masks: Path, number: int, region: str, slices: int, image_size: int, seed: int) -> None:
    rng = np.random.default_rng((seed, number, 0xC7))
    name = f"PHANTOM-{number + 1:04d}"
    folder = out / name / "series"
    folder.mkdir(parents=True, exist_ok=True)
    dataset = _series(rng, name, region, number, image_size, seed)
    stack = []
    for k in range(slices):
        hu, mask = draw_slice(region, (k + 0.5) / slices, image_size, (seed, number), k)
        stack.append(mask)
        _write_slice(dataset, folder / f"{k + 1:04d}.dcm", k, hu, _uid(seed, number, "slice", k))
    np.save(masks / f"{name}.npy", np.stack(stack))


def _series(rng: np.random.Generator, name: str, region: str, number: int, image_size: int, seed: int) -> Dataset:
    d = Dataset()
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.SOPClassUID = CTImageStorage
    d.StudyDate = d.SeriesDate = d.ContentDate = "20200101"
    d.StudyTime = d.ContentTime = "120000"
    d.AccessionNumber = ""
    d.Modality = "CT"
    d.Manufacturer = "radnet_jax phantom"
    d.ReferringPhysicianName = ""
    d.PatientName = name.replace("-", "^")
    d.PatientID = name
    d.PatientBirthDate = ""
    d.PatientSex = str(rng.choice(["F", "M"]))
    d.PatientAge = f"{int(rng.integers(20, 95)):03d}Y"
    d.BodyPartExamined = str(rng.choice(BODY_PARTS[region]))
    d.SliceThickness = "5"
    d.KVP = "120"
    d.PatientPosition = "HFS"
    d.StudyInstanceUID = _uid(seed, number, "study")
    d.SeriesInstanceUID = _uid(seed, number, "series")
    d.StudyID = "1"
    d.SeriesNumber = "1"
    d.FrameOfReferenceUID = _uid(seed, number, "frame")
    d.PositionReferenceIndicator = ""
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.Rows = d.Columns = image_size
    d.PixelSpacing = [round(FIELD_OF_VIEW_MM / image_size, 6)] * 2
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = "-1024", "1", "HU"
    return d


def _write_slice(dataset: Dataset, path: Path, k: int, hu: Int16[np.ndarray, "s s"], uid: str) -> None:
    dataset.SOPInstanceUID = UID(uid)
    dataset.InstanceNumber = str(k + 1)
    dataset.ImagePositionPatient = [-FIELD_OF_VIEW_MM / 2, -FIELD_OF_VIEW_MM / 2, 5.0 * k]
    dataset.PixelData = (hu + 1024).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    flags = Flags("python -m data_prep.phantom", description="Writes generated images.", allow_abbrev=False)
    flags.add_argument("--out", required=True, metavar="DIR")
    flags.add_argument("--kind", required=True, choices=("ct", "leaves"))
    flags.add_argument("--patients_per_region", type=int, default=20, help="ct: patients of each of six regions")
    flags.add_argument("--slices", type=int, default=10, help="ct: slices of each patient")
    flags.add_argument("--images", type=int, default=1000, help="leaves: images")
    flags.add_argument("--image_size", type=int, default=96, help="rows and columns")
    flags.add_argument("--seed", type=int, default=0)
    try:
        known = flags.parse_args(arguments)
        if known.kind == "ct":
            write_ct(
                known.out, patients_per_region=known.patients_per_region, slices=known.slices,
                image_size=known.image_size, seed=known.seed,
            )  # fmt: skip
        else:
            write_leaves(known.out, images=known.images, image_size=known.image_size, seed=known.seed)
    except UserError as error:
        print(f"data_prep.phantom: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
