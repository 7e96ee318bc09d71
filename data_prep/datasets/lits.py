"""LiTS 2017 (Bilic et al. 2023, The Liver Tumor Segmentation Benchmark): liver and its tumours in abdominal CT.

Known faults of the volumes, and what is done about each:
- Volumes 28 to 47 have an identity in place of an affine: no spacing is known (none is invented), and left and right
  are told by the liver. Whatever the header says, a volume that shows the liver clearly on the left is mirrored; the
  fact `orientation` says which volumes were.
- In about 50 pairs the affine of the mask is another than that of its volume, while the voxels fit by their number. The
  mask's affine is never used; another number of voxels is rejected.
- A header that does not give Hounsfield units, or a mask that lies elsewhere, shows in the values below the mask: the
  median of the liver has to be liver, and most of it soft tissue, else the volume is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
import re
from typing import Any, NamedTuple

from jaxtyping import Bool, Int16, Num, UInt8
import numpy as np

from data_prep.datasets.radnet import HU_RANGE
from data_prep.ingest import nifti
from data_prep.ingest.files import Version, walk
from data_prep.ingest.image import fit, fit_mask, read_image
from data_prep.ingest.masks import image_size, read_foreground
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

FORMATS = ("nifti", "png")
SLICES = ("all", "liver")
LIVER_HU = (-50.0, 300.0)  # median of a liver: fatty and unenhanced to late arterial phase
TISSUE_HU = (-150.0, 400.0)
TISSUE_SHARE = 0.75  # of the liver mask; a mask turned by 180 degrees covers lung, fat and air
CLEARLY = 0.05  # of the image's width
_VOLUME = re.compile(r"(test-)?volume-(\d+)\.nii(\.gz)?", re.IGNORECASE)
_SLICE = re.compile(r"volume-(\d+)_(\d+)\.png", re.IGNORECASE)
_UNKNOWN = nifti.Layout((0, 1, 2), (False, False, False))  # what an identity says


@DATASETS.register("lits")
def lits(source: Path, size: int, format: str = "", slices: str = "all") -> DatasetSpec:
    """LiTS 2017: 131 abdominal CT volumes (58,638 slices) with masks liver = 1, tumour = 2 (a tumour lies over the
    liver). From competitions.codalab.org/competitions/17094 (or its mirrors), licence CC BY-NC-ND 4.0.
      nifti  volume-0.nii and segmentation-0.nii side by side, also .nii.gz, in any folders ("Training Batch 1", "2");
             test-volume-0.nii has no mask and is rejected. Records are int16 Hounsfield units.
      png    the PNG re-release (kaggle.com/datasets/andrewmvd/lits-png): volume-0_0.png beside
             segmentation-0_livermask_0.png and segmentation-0_lesionmask_0.png, or in volumes/ and segmentations/ side
             by side (Clean_LiTS). 8 bits of an unknown window, lying as they were exported, some upside down. Its lists
             (lits_train.csv, ...) and split folders are passed over: nobody says that they keep volumes apart.
    A volume is a patient; splits are made by patient, with and without tumour. Options: --format=nifti|png (where the
    source holds both), --slices=liver (slices that show liver only; default all).
    """
    found = _format(source, format)
    if slices not in SLICES:
        raise UserError("lits: slices", got=repr(slices), expected="all or liver")
    is_nifti = found == "nifti"
    return DatasetSpec(
        name="lits",
        version="1.0.0",
        task="none",
        labels=(),
        stored=StoredPixels("CT", "HU", HU_RANGE, (size, size), 1, "pad_area", "int16")
        if is_nifti
        else StoredPixels("CT", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("orientation",) if is_nifti else (),
        candidates=functools.partial(_candidates, suffixes=nifti.SUFFIXES if is_nifti else (".png",)),
        rows=functools.partial(_volume_rows if is_nifti else _png_rows, liver_only=slices == "liver"),
        encode=functools.partial(_encode_nifti if is_nifti else _encode_png, size=size),
        segmentation=("liver", "tumour"),
        encode_mask=functools.partial(_encode_nifti_mask if is_nifti else _encode_png_mask, size=size),
    )


def _format(source: Path, asked: str) -> str:
    if asked not in ("", *FORMATS):
        raise UserError("lits: format", got=repr(asked), expected="nifti or png")
    names = {PurePosixPath(path).name for path in walk(source)}
    found = [
        kind for kind, pattern in (("nifti", _VOLUME), ("png", _SLICE)) if any(pattern.fullmatch(n) for n in names)
    ]
    if asked and asked not in found:
        raise UserError(f"source holds no {asked} volumes of LiTS", expected=_EXPECTED[asked])
    if not found:
        raise UserError("source is not in a layout of LiTS", expected=" or ".join(_EXPECTED.values()))
    if not asked and len(found) > 1:
        raise UserError("source holds LiTS as NIfTI and as PNG", fix="choose with --format=nifti or --format=png")
    return asked or found[0]


_EXPECTED = {"nifti": "volume-N.nii and segmentation-N.nii", "png": "volume-N_K.png and segmentation-N_livermask_K.png"}


def _candidates(source: Path, *, suffixes: tuple[str, ...]) -> Iterator[Candidate]:
    for path in walk(source):
        if path.lower().endswith(suffixes) and not PurePosixPath(path).name.lower().startswith("segmentation-"):
            yield Candidate(path)


# NIfTI


class _Lie(NamedTuple):
    """How a volume lies, whether its header says where its slices are, and whether the liver turned it round."""

    layout: nifti.Layout
    placed: bool
    mirrored: bool


def _volume_rows(source: Path, candidate: Candidate, *, liver_only: bool) -> list[Row]:
    path = PurePosixPath(candidate.path)
    match = _VOLUME.fullmatch(path.name)
    if not match:
        raise Reject("unknown_name", path.name)
    mask = _volume_mask(source, path)
    volume = source / path
    if not volume.is_file():
        raise Reject("missing_file", "a dangling link, a pipe or the like")
    lie = _lie(Version.of(volume), Version.of(source / mask))
    opened = nifti.open_volume(source / mask)
    if (opened.slope, opened.intercept) != (1.0, 0.0):
        raise Reject("mask_value", "scaled labels")
    labels = nifti.axial(opened.stored, lie.layout)
    shows = [_check_labels(plane) for plane in labels]
    _check_liver(volume, source / mask, lie.layout)
    fields: dict[str, Any] = {
        "path": str(path),
        "patient": f"lits {int(match[2])}",
        "series": f"lits {int(match[2])}",
        "plane": "axial",
        "mask": mask,
        "size": labels.shape[1:],
        "stratum": int(any(tumour for _, tumour in shows)),
        "facts": {"orientation": "mirrored" if lie.mirrored else "header"},
    }
    header = nifti.read_header(volume) if lie.placed else None
    if header:
        fields["spacing"] = header.pixel_spacing
    return [
        Row(
            **fields,
            identity=f"lits {int(match[2])} slice {k}",
            frame=k,
            instance=k,
            position=k * header.spacing if header else None,
            asked=liver or not liver_only,
        )
        for k, (liver, _) in enumerate(shows)
    ]


def _volume_mask(source: Path, volume: PurePosixPath) -> str:
    match = _VOLUME.fullmatch(volume.name)
    assert match
    if match[1]:
        raise Reject("missing_mask", "a volume of the test set")
    for suffix in nifti.SUFFIXES:
        mask = volume.with_name(f"segmentation-{match[2]}{suffix}")
        if (source / mask).is_file():
            return str(mask)
    raise Reject("missing_mask")


@functools.lru_cache(maxsize=4)  # asked for with each slice
def _lie(volume: Version, mask: Version) -> _Lie:
    nifti.check_same_grid(mask.path, volume.path, affine=False)
    try:
        layout, header = nifti.read_layout(volume.path), nifti.read_header(volume.path)
        placed = (layout, header.spacing, header.pixel_spacing) != (_UNKNOWN, 1.0, (1.0, 1.0))
    except Reject as reject:
        if reject.reason != "no_affine":
            raise
        layout, placed = _UNKNOWN, False
    liver, _ = _sampled(mask.path, layout)
    columns = np.flatnonzero((liver > 0).any(axis=(0, 1)))
    if not len(columns):
        raise Reject("no_liver")
    weights = (liver > 0).sum(axis=(0, 1))
    middle = (weights * np.arange(len(weights))).sum() / weights.sum() / (len(weights) - 1) - 0.5
    mirrored = bool(middle > (CLEARLY if placed else 0.0))  # columns run from the patient's right to the left
    if mirrored:
        right, anterior, superior = layout.backwards
        layout = layout._replace(backwards=(not right, anterior, superior))
    return _Lie(layout, placed, mirrored)


def _sampled(path: Path, layout: nifti.Layout) -> tuple[Num[np.ndarray, "k h w"], tuple[slice, ...]]:
    """Values of every n-th voxel, about 64 along each axis, and which those are."""
    volume = nifti.open_volume(path)
    slices = nifti.axial(volume.stored, layout)
    steps = tuple(slice(None, None, max(1, n // 64)) for n in slices.shape)
    return slices[steps] * volume.slope + volume.intercept, steps


def _check_labels(plane: Num[np.ndarray, "h w"]) -> tuple[bool, bool]:
    """Whether a slice of a mask shows liver (with its tumours), and tumour."""
    highest = plane.max()
    if plane.min() < 0 or highest > 2 or (plane.dtype.kind == "f" and (plane != np.rint(plane)).any()):
        raise Reject("mask_value")
    return bool(highest > 0), bool(highest == 2)


def _check_liver(volume: Path, mask: Path, layout: nifti.Layout) -> None:
    """Rejects a volume whose values below the mask are not those of a liver in Hounsfield units."""
    liver: Bool[np.ndarray, "k h w"] = _sampled(mask, layout)[0] > 0
    values = _sampled(volume, layout)[0][liver]
    if not LIVER_HU[0] <= np.median(values) <= LIVER_HU[1]:
        raise Reject("not_hu", f"the median below the mask is {np.median(values):g}")
    share = ((values >= TISSUE_HU[0]) & (values <= TISSUE_HU[1])).mean()
    if share < TISSUE_SHARE:
        raise Reject("mask_off_liver", f"{share:.0%} of the mask lies on soft tissue")


def _encode_nifti(source: Path, path: str, frame: int, *, size: int) -> Int16[np.ndarray, "h w 1"]:
    volume = source / path
    lie = _lie(Version.of(volume), Version.of(source / _volume_mask(source, PurePosixPath(path))))
    slice_ = nifti.read_hu(volume, frame, HU_RANGE, lie.layout)
    return fit(slice_[..., None], (size, size), "pad_area", HU_RANGE[0])


def _encode_nifti_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    lie = _lie(Version.of(source / path), Version.of(source / mask))
    return fit_mask(nifti.read_mask(source / mask, frame, source / path, lie.layout), (size, size), "pad_area")


# PNG


def _png_rows(source: Path, candidate: Candidate, *, liver_only: bool) -> list[Row]:
    path = PurePosixPath(candidate.path)
    match = _SLICE.fullmatch(path.name)
    if not match:
        raise Reject("unknown_name", path.name)
    volume, number = int(match[1]), int(match[2])
    liver = _png_mask(source, path, match)
    image_size_ = image_size(source / path)
    labels = _read_png_mask(source, liver, image_size_)
    if liver_only and not labels.any():
        return []
    return [
        Row(
            path=str(path),
            identity=f"lits {volume} slice {number}",
            patient=f"lits {volume}",
            series=f"lits {volume}",
            instance=number,
            size=image_size_,
            stratum=1 if (labels == 2).any() else -1,  # of a volume's slices: with tumour, if any of them is
            mask=liver,
        )
    ]


def _png_mask(source: Path, path: PurePosixPath, match: re.Match[str]) -> str:
    """The liver's mask of a slice, whose tumour mask lies beside it."""
    name = f"segmentation-{match[1]}_livermask_{match[2]}.png"
    for folder in (path.parent, path.parent.parent / "segmentations"):
        if (source / folder / name).is_file() and (source / _lesion(str(folder / name))).is_file():
            return str(folder / name)
    raise Reject("missing_mask")


def _lesion(liver: str) -> str:
    return "_lesionmask_".join(liver.rsplit("_livermask_", 1))


def _read_png_mask(source: Path, liver: str, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    labels = read_foreground([source / liver], size)
    labels[read_foreground([source / _lesion(liver)], size) > 0] = 2
    return labels


def _encode_png(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_image(source / path, 1), (size, size), "pad_area", 0)


def _encode_png_mask(source: Path, path: str, mask: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w"]:
    return fit_mask(_read_png_mask(source, mask, image_size(source / path)), (size, size), "pad_area")
