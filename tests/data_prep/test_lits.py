"""LiTS: every volume of the miniature comes out as it was drawn, however its files turn it round."""

import shutil

import nibabel
import numpy as np
import pytest

from data_prep.build import build
from data_prep.datasets import lits
from data_prep.datasets.lits import _encode_nifti, _encode_nifti_mask
from data_prep.ingest import nifti
from data_prep.miniatures import write_miniature
from data_prep.miniatures.lits import CASES, SLICES, picture
from data_prep.miniatures.lits_png import shown
from data_prep.spec import Candidate
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_from, build_miniature
from tests.data_prep.test_dicom import reason_of

PADDING = ((4, 4), (0, 0))  # 40 rows of 48 columns


def _planted(draw=lambda number: picture(0, number)[0], lowest=-1024):
    """{pixels of a record: (volume, slice)} of all that was drawn."""
    return {
        np.pad(image, PADDING, constant_values=lowest).tobytes(): (number, k)
        for number in CASES
        for k, image in enumerate(draw(number))
    }


def _check_masks(records, places):
    for record in records:
        number, k = places[record["image"].tobytes()]
        np.testing.assert_array_equal(record["segmentation"], np.pad(picture(0, number)[1][k], PADDING))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return build_miniature("lits", tmp_path_factory.mktemp("lits"), size=48)


def test_slices_lie_as_a_radiologist_sees_them(volumes):
    places = _planted()
    assert sorted(places[record["image"].tobytes()] for record in volumes.merged()) == sorted(places.values())
    _check_masks(volumes.merged(), places)
    liver = np.mean([record["segmentation"] > 0 for record in volumes.merged()], axis=0)
    assert liver[:, :24].sum() > 10 * liver[:, 24:].sum()  # the patient's right is on the left
    bone = np.mean([record["image"][..., 0] > 400 for record in volumes.merged()], axis=0)
    assert bone[24:].sum() > 0.99 * bone.sum()  # and the back is below
    assert (volumes.card.stored.unit, volumes.card.stored.dtype) == ("HU", "int16")
    assert volumes.card.segmentation == ("liver", "tumour")
    assert volumes.report["rejected"] == {"missing_mask": 1}


def test_volumes_keep_their_slices_and_what_their_headers_say(volumes):
    places = _planted()
    series = {}
    for record in volumes.merged():
        number, k = places[record["image"].tobytes()]
        assert series.setdefault(number, record["series"]) == record["series"]
        assert record["slice"] == k
        known = number not in (28, 29)
        assert record["position"] == (5.0 * k if known else None)
        spacing = (record["row_spacing"], record["column_spacing"])
        assert spacing == (pytest.approx((0.8, 0.75)) if known else (None, None))
        assert record["orientation"] == ("header" if known else "mirrored")
    assert len(set(series.values())) == len(CASES)


def test_patients_do_not_part_and_tumours_come_into_each_split(volumes):
    patients = {split: {r["patient"] for r in volumes.merged(split)} for split in ("train", "val", "test")}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == len(CASES)
    for split in patients:
        assert any((record["segmentation"] == 2).any() for record in volumes.merged(split))


def test_only_slices_with_liver(tmp_path):
    lines = []
    found = build_miniature("lits", tmp_path, size=48, slices="liver", log=lines.append)
    assert found.report["not_asked"] == {"files": 0, "images": 3 * len(CASES)}
    assert any(line.startswith(f"{3 * len(CASES)} images are not wanted") for line in lines)
    places = _planted()
    assert {places[record["image"].tobytes()][1] for record in found.merged()} == {2, 3, 4, 5, 6}
    assert len(found.merged()) == 5 * len(CASES)
    assert all(record["segmentation"].any() for record in found.merged())


def _rows(source, file="Training Batch 1/volume-0.nii"):
    return lits._volume_rows(source, Candidate(file), liver_only=False)


@pytest.fixture
def source(tmp_path):
    return write_miniature("lits", tmp_path / "in")


def _save(path, change):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)


def _one_more_slice(voxels):
    return np.concatenate([voxels, voxels[..., :1]], axis=2)


@pytest.mark.parametrize(
    ("reason", "file", "change"),
    [
        ("mask_mismatch", "segmentation", _one_more_slice),
        ("mask_value", "segmentation", lambda mask: mask + np.uint8(1)),
        ("mask_value", "segmentation", lambda mask: mask * np.float32(0.5)),
        ("mask_off_liver", "segmentation", lambda mask: np.roll(mask, -8, axis=0)),
        ("no_liver", "segmentation", np.zeros_like),
        ("not_hu", "volume", lambda hu: hu + np.int16(1024)),
        ("not_hu", "volume", lambda hu: np.full(hu.shape, np.nan, np.float32)),
    ],
)
def test_volumes_that_do_not_fit(source, reason, file, change):
    _save(source / "Training Batch 1" / f"{file}-0.nii", change)
    assert reason_of(_rows, source) == reason


def test_other_names_are_rejected(source):
    shutil.copy(source / "Training Batch 1" / "volume-0.nii", source / "volume-x.nii")
    assert reason_of(_rows, source, "volume-x.nii") == "unknown_name"
    (source / "Training Batch 1" / "segmentation-0.nii").unlink()
    assert reason_of(_rows, source) == "missing_mask"
    shutil.copy(source / "Training Batch 1" / "segmentation-1.nii.gz", source / "segmentation-99.nii.gz")
    (source / "volume-99.nii").symlink_to("/nonexistent")
    assert reason_of(_rows, source, "volume-99.nii") == "missing_file"


def test_a_header_that_mirrors_the_liver_is_not_believed(source):
    rows = _rows(source)
    hu = _encode_nifti(source, rows[3].path, 3, size=48)
    for name in ("volume", "segmentation"):
        path = source / "Training Batch 1" / f"{name}-0.nii"
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).copy(), image.affine @ np.diag([-1, 1, 1, 1])), path)
    mirrored = _rows(source)
    assert {row.facts["orientation"] for row in mirrored} == {"mirrored"}
    assert [row.position for row in mirrored] == [row.position for row in rows]
    np.testing.assert_array_equal(_encode_nifti(source, rows[3].path, 3, size=48), hu)
    mask = _encode_nifti_mask(source, rows[3].path, rows[3].mask, 3, size=48)
    np.testing.assert_array_equal(mask, np.pad(picture(0, 0)[1][3], PADDING))


def test_a_volume_without_any_affine_is_one_of_unknown_spacing(source):
    for name in ("volume", "segmentation"):
        path = source / "Training Batch 1" / f"{name}-0.nii"
        raw = bytearray(path.read_bytes())
        raw[252:256] = bytes(4)  # qform_code and sform_code
        path.write_bytes(raw)
    rows = _rows(source)
    assert {(row.position, row.spacing, row.facts["orientation"]) for row in rows} == {(None, None, "mirrored")}
    np.testing.assert_array_equal(
        _encode_nifti(source, rows[3].path, 3, size=48)[..., 0],
        np.pad(picture(0, 0)[0][3], PADDING, constant_values=-1024),
    )


def test_a_gzipped_volume_is_unpacked_once_for_all_its_slices(source, monkeypatch):
    monkeypatch.setattr(nifti, "_opened", {})
    reads = []
    real = nibabel.arrayproxy.ArrayProxy.get_unscaled
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda self: reads.append(1) or real(self))
    path, mask = "Training Batch 1/volume-1.nii.gz", "Training Batch 1/segmentation-1.nii.gz"
    for k in range(SLICES):
        _encode_nifti(source, path, k, size=48)
        _encode_nifti_mask(source, path, mask, k, size=48)
    assert len(reads) == 2


# PNG


@pytest.fixture(scope="module")
def pngs(tmp_path_factory):
    return build_from(
        "lits",
        write_miniature("lits_png", (folder := tmp_path_factory.mktemp("lits_png")) / "in"),
        folder / "out",
        size=48,
    )


def test_the_png_release(pngs):
    places = _planted(lambda number: shown(0, number), 0)
    assert sorted(places[record["image"].tobytes()] for record in pngs.merged()) == sorted(places.values())
    _check_masks(pngs.merged(), places)
    assert all(record["slice"] == places[record["image"].tobytes()][1] for record in pngs.merged())
    assert (
        len({record["series"] for record in pngs.merged()}) == len({r["patient"] for r in pngs.merged()}) == len(CASES)
    )
    assert (pngs.card.stored.modality, pngs.card.stored.unit, pngs.report["rejected"]) == ("CT", "none", {})


def test_pngs_sorted_into_split_folders_are_split_by_volume_all_the_same(tmp_path):
    flat = write_miniature("lits_png", tmp_path / "flat") / "dataset_6" / "dataset_6"
    for path in flat.iterdir():
        split = ("train", "val", "test")[int(path.stem.split("_")[-1]) % 3]
        kind = "volumes" if path.name.startswith("volume") else "segmentations"
        (tmp_path / "in" / split / kind).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "in" / split / kind / path.name)
    (tmp_path / "in" / "train" / "segmentations" / "segmentation-0_lesionmask_3.png").unlink()
    found = build_from("lits", tmp_path / "in", tmp_path / "out", size=48, slices="liver")
    places = _planted(lambda number: shown(0, number), 0)
    assert {places[r["image"].tobytes()] for r in found.merged()} == {
        (number, k) for number in CASES for k in range(2, 7) if (number, k) != (0, 3)
    }
    _check_masks(found.merged(), places)
    assert found.report["rejected"] == {"missing_mask": 1}
    assert found.report["not_asked"] == {"files": 3 * len(CASES), "images": 3 * len(CASES)}
    assert found.report["files"] == len(found.merged()) + 1 + 3 * len(CASES)
    of_volume = {}
    for record in found.merged():
        assert of_volume.setdefault(record["series"], record["split"]) == record["split"]


def test_sources_that_are_not_lits_are_refused_in_one_line(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("")
    both = write_miniature("lits", tmp_path / "both")
    write_miniature("lits_png", tmp_path / "png")
    shutil.copytree(tmp_path / "png" / "dataset_6", both / "dataset_6")
    for source, options, message in [
        (empty, {}, r"volume-N.nii and segmentation-N.nii or volume-N_K.png"),
        (both, {}, "--format=nifti or --format=png"),
        (both, {"format": "dicom"}, "nifti or png"),
        (tmp_path / "png", {"format": "nifti"}, "no nifti volumes"),
        (both, {"slices": "some", "format": "png"}, "all or liver"),
    ]:
        with pytest.raises(UserError, match=message):
            build("lits", source, tmp_path / "out", **options)
