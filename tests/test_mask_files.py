"""Masks of new images lie on the images' own grids, whatever the kind of file and however it is stored."""

import cv2
import nibabel
import numpy as np
import pydicom
import pytest

from data_prep.ingest.image import fit_mask, unfit_mask
from data_prep.phantom import write_ct
from radnet_jax import mask_files, new_images
from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

SIZE = 32


def card(modality="CT", resize="pad_area"):
    ct = modality == "CT"
    stored = StoredPixels(
        modality,
        "HU" if ct else "none",
        (-1024.0, 3071.0) if ct else (0.0, 255.0),
        (SIZE, SIZE),
        1,
        resize,
        "int16" if ct else "uint8",
    )
    return DatasetCard("organs", "1", "none", (), stored, {"train": 1}, "0", segmentation=("soft", "bone"))


def by_level(images, low, high):
    """A mask of each image by the levels of its stored pixels: what a network would give, known beforehand."""
    for i in range(len(images)):
        batch = images.allocate(1)
        images.read_into(batch, 0, [i])
        yield levels(batch["image"][0, ..., 0], low, high)


def levels(values, low, high):
    return ((values > low).astype(np.uint8) + (values > high)).astype(np.uint8)


def write(images, out, low, high, form="images"):
    return dict(mask_files.write(images, by_level(images, low, high), images.names("paths"), out, form))


@pytest.mark.parametrize("codes", [("R", "A", "S"), ("L", "P", "I"), ("A", "S", "R"), ("I", "L", "A")])
def test_a_volume_keeps_its_axes_and_its_affine(tmp_path, codes):
    values = np.random.default_rng(0).integers(-500, 1500, (SIZE, SIZE, SIZE)).astype(np.int16)
    turned = nibabel.orientations.axcodes2ornt(codes)
    affine = nibabel.orientations.inv_ornt_aff(turned, values.shape) @ np.diag([1, 2, 3, 1])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in.nii.gz")
    images = new_images.find(tmp_path / "in.nii.gz", card())
    counts = write(images, tmp_path / "out", 0, 700)
    found = nibabel.load(tmp_path / "out" / "in.nii.gz.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), levels(values, 0, 700))
    np.testing.assert_allclose(found.affine, affine)
    assert sum(c[1] for c in counts.values()) == (values > 700).sum()


@pytest.mark.parametrize("resize", ["pad_area", "stretch_area"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 40), (40, 96)])
def test_a_mask_of_an_image_has_its_size(tmp_path, shape, resize):
    values = np.zeros(shape, np.uint8)
    values[8:24, 8:32] = 120
    values[12:20, 16:24] = 240
    cv2.imwrite(str(tmp_path / "in.png"), values)
    images = new_images.find(tmp_path / "in.png", card("XR", resize))
    write(images, tmp_path / "out", 60, 180)
    found = cv2.imread(str(tmp_path / "out" / "in.png.png"), cv2.IMREAD_UNCHANGED)
    assert found.shape == shape
    assert (found != levels(values, 60, 180)).mean() < 0.08  # borders move by a stored pixel


@pytest.mark.parametrize("rule", ["pad_area", "stretch_area"])
def test_bringing_a_mask_back_undoes_what_its_image_went_through(rule):
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (16, 8)), np.ones((4, 4))).astype(np.uint8)
    size = (16, 16) if rule == "pad_area" else (16, 8)
    np.testing.assert_array_equal(unfit_mask(fit_mask(mask, size, rule), mask.shape, rule), mask)


@pytest.fixture
def series(tmp_path):
    write_ct(tmp_path / "source", patients_per_region=1, slices=3, image_size=SIZE)
    return tmp_path / "source"


def test_a_dicom_image_has_a_png(series, tmp_path):
    images = new_images.find(series, card())
    write(images, tmp_path / "out", -300, 200)
    row = images.rows[4]
    found = cv2.imread(str(tmp_path / "out" / f"{row.path}.png"), cv2.IMREAD_UNCHANGED)
    dataset = pydicom.dcmread(series / row.path)
    hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    np.testing.assert_array_equal(found, levels(hu, -300, 200))


def test_a_series_has_a_dicom_segmentation_where_asked(series, tmp_path):
    pytest.importorskip("highdicom")
    images = new_images.find(series, card())
    write(images, tmp_path / "out", -300, 200, form="dicom_seg")
    paths = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(paths) == 6  # one for each series
    seg = pydicom.dcmread(paths[0])
    assert seg.SOPClassUID == pydicom.uid.SegmentationStorage
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["soft", "bone"]
    sources = {}
    for path in series.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        sources[dataset.SOPInstanceUID] = dataset
    frames = seg.pixel_array
    groups = seg.PerFrameFunctionalGroupsSequence
    assert len(groups) == 3 * 2
    for frame, group in zip(frames, groups, strict=True):
        of = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = sources[of]
        assert source.SeriesInstanceUID == seg.ReferencedSeriesSequence[0].SeriesInstanceUID
        hu = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
        np.testing.assert_array_equal(frame, levels(hu, -300, 200) == number)


def slice_at(place, turn=(1, 0, 0, 0, 1, 0), rows=SIZE, frame="1.2"):
    dataset = pydicom.Dataset()
    dataset.Rows, dataset.Columns = rows, SIZE
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = list(turn), list(place)
    dataset.FrameOfReferenceUID = frame
    return dataset


def test_one_segmentation_is_of_one_stack_of_slices():
    tilted = (1, 0, 0, 0, 0.9553, 0.2955)
    plain = [slice_at((0, 0, z), tilted) for z in (10, 0, 5)]
    assert mask_files.stacks(plain) == [[0, 1, 2]]
    localiser = slice_at((0, 0, 0), (1, 0, 0, 0, 0, -1))
    again, larger = [slice_at((0, 0, z), tilted) for z in (0, 5)], slice_at((0, 0, 20), tilted, rows=64)
    assert mask_files.stacks([localiser, *plain, *again, larger]) == [[0], [1, 2, 3], [4, 5], [6]]
    assert mask_files.stacks([pydicom.Dataset(), pydicom.Dataset()]) == [[0], [1]]  # X-rays: no place in the patient
    nowhere = slice_at((0, 0, 0))
    nowhere.FrameOfReferenceUID = ""
    assert mask_files.stacks([nowhere, nowhere]) == [[0], [1]]


@pytest.mark.parametrize("odd", ["localiser", "no frame of reference"])
def test_odd_series_have_what_can_be_made_of_them(series, tmp_path, odd):
    pytest.importorskip("highdicom")
    paths = sorted(series.rglob("*.dcm"))
    first = pydicom.dcmread(paths[0])
    for path in paths:
        dataset = pydicom.dcmread(path)
        if odd == "localiser" and path == paths[0]:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        if odd != "localiser" and dataset.SeriesInstanceUID == first.SeriesInstanceUID:
            del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    images = new_images.find(series, card())
    write(images, tmp_path / "out", -300, 200, form="dicom_seg")
    found = [len(list((tmp_path / "out").rglob(kind))) for kind in ("*.dcm", "*.png")]
    assert found == ([7, 0] if odd == "localiser" else [5, 3])


def test_dicom_segmentation_needs_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(UserError, match=r"needs highdicom.*pip install"):
        mask_files.check("dicom_seg")


def test_what_can_not_be_read_has_no_mask(series, tmp_path):
    np.save(series / "broken.npy", np.full((SIZE, SIZE), np.nan))  # which its header does not tell
    images = new_images.find(series, card())
    counts = write(images, tmp_path / "out", -300, 200)
    assert len(counts) == len(images) - 1
    assert len(images.rejected) == 1


def test_no_two_files_share_the_name_of_a_mask():
    assert mask_files.stems(["a/1.nii.gz", "b.PNG", "c.dcm", "c.dcm", "0011aabb"]) == ["a/1", "b", "c", "c", "0011aabb"]
    by_identifier = ["1.2.840.1", "1.2.840.2"]  # DICOM files without a suffix
    assert mask_files.stems(by_identifier) == by_identifier
    assert mask_files.stems(["a.png", "a.dcm", "b.png"]) == ["a.png", "a.dcm", "b"]
