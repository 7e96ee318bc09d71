"""NIfTI volumes: slices by the affine, scaling, masks on the same grid."""

import nibabel
import numpy as np
import pytest

from data_prep.ingest import nifti
from data_prep.ingest.nifti import read_header, read_hu, read_layout, read_mask, read_slice
from tests.data_prep.test_dicom import RANGE, reason_of

SHAPE = (4, 5, 6)


def _volume():
    """Values that name their place: 100 x + 10 y + z in (right, anterior, superior) indices."""
    x, y, z = np.mgrid[:4, :5, :6]
    return (100 * x + 10 * y + z).astype(np.int16)


def _write(path, data, affine=None):
    image = nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA", "ASL"])
def test_every_orientation_gives_the_same_slices(tmp_path, codes, suffix):
    canonical = nibabel.Nifti1Image(_volume(), np.diag([2.0, 2.5, 3.0, 1.0]))
    target = nibabel.orientations.axcodes2ornt(codes)
    turned = canonical.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(canonical.affine), target)
    )
    path = tmp_path / f"a{suffix}"
    nibabel.save(turned, path)
    header = read_header(path)
    assert (header.slices, header.spacing) == (6, pytest.approx(3))
    assert (header.size, header.pixel_spacing) == ((5, 4), pytest.approx((2.5, 2)))
    for k in range(6):
        # rows from anterior to posterior, columns from right to left, as an axial DICOM slice lies
        np.testing.assert_array_equal(read_slice(path, k), _volume()[::-1, ::-1, k].T)


def test_scaling_and_hu(tmp_path):
    path = _write(tmp_path / "a.nii.gz", _volume().astype(np.float64) * 4 - 1024.4)
    image = nibabel.load(path)
    scaled = nibabel.Nifti1Image(_volume(), image.affine)
    scaled.header.set_slope_inter(2.5, -1024.0)
    nibabel.save(scaled, tmp_path / "b.nii.gz")
    expected = _volume()[::-1, ::-1, 2].T * 2.5 - 1024
    np.testing.assert_allclose(read_slice(tmp_path / "b.nii.gz", 2), expected)
    np.testing.assert_array_equal(
        read_hu(tmp_path / "b.nii.gz", 2, RANGE), np.rint(expected).clip(*RANGE).astype(np.int16)
    )
    assert read_hu(path, 0, RANGE)[-1, -1] == -1024  # clipped


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_stored_type(tmp_path, kind):
    dtype = np.dtype(kind)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    data = np.zeros(SHAPE, dtype)
    data[0, 0, 0], data[1, 0, 0], data[2, 0, 0] = max(limits.min, -1e30), min(limits.max, 1e30), 90
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0]), dtype=dtype), path)
    expected = data[..., 0].T.astype(np.float64).clip(*RANGE).astype(np.int16)
    hu = read_hu(path, 0, RANGE)
    np.testing.assert_array_equal(hu, expected)
    assert (hu.dtype, read_slice(path, 0).dtype) == (np.int16, np.float64)
    np.testing.assert_array_equal(read_slice(path, 0), data[..., 0].T.astype(np.float64))


def test_a_slight_tilt_keeps_its_slices_and_flat_files_are_one_slice(tmp_path):
    angle = 0.2
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = _write(tmp_path / "a.nii", _volume(), turn @ np.diag([2.0, 2.0, 3.0, 1.0]))
    np.testing.assert_array_equal(read_slice(path, 1), _volume()[::-1, ::-1, 1].T)
    flat = _write(tmp_path / "b.nii", _volume()[..., :1, None])
    assert read_header(flat).slices == 1


@pytest.mark.parametrize(
    ("reason", "data"),
    [("not_3d", np.zeros((4, 4, 4, 2), np.int16)), ("not_scalar", np.zeros((4, 4, 4), np.complex64))],
)
def test_volumes_that_are_not_understood(tmp_path, reason, data):
    assert reason_of(read_header, _write(tmp_path / "a.nii", data)) == reason


def test_no_orientation_is_made_up(tmp_path):
    path = _write(tmp_path / "a.nii", _volume())
    raw = bytearray(path.read_bytes())
    raw[252:256] = bytes(4)  # qform_code and sform_code: the affine is unknown
    path.write_bytes(raw)
    assert reason_of(read_header, path) == "no_affine"


def test_broken_files(tmp_path):
    path = _write(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (30, 30, 9)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-500])
    assert read_header(path).slices == 9
    assert reason_of(read_slice, path, 0) == "truncated"
    (tmp_path / "b.nii").write_bytes(b"no volume")
    assert reason_of(read_header, tmp_path / "b.nii") == "not_nifti"
    assert reason_of(read_header, tmp_path / "none.nii") == "unreadable"
    data = np.zeros(SHAPE, np.float32)
    data[0] = np.nan
    assert reason_of(read_slice, _write(tmp_path / "c.nii", data), 0) == "not_finite"


def test_a_header_that_asks_for_too_much_memory(tmp_path):
    path = _write(tmp_path / "a.nii", _volume())
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(raw)
    assert reason_of(read_slice, path, 0) == "memory_limit"


def test_masks_lie_on_the_grid_of_their_image(tmp_path):
    image = _write(tmp_path / "a.nii", _volume())
    mask = _write(tmp_path / "m.nii.gz", (_volume() > 200).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(mask, 3, image), _volume()[::-1, ::-1, 3].T > 200)
    moved = _write(tmp_path / "n.nii", np.zeros(SHAPE, np.uint8), np.diag([2.0, 2.0, 4.0, 1.0]))
    assert reason_of(read_mask, moved, 3, image) == "mask_mismatch"
    halves = _write(tmp_path / "h.nii", np.full(SHAPE, 0.5, np.float32))
    assert reason_of(read_mask, halves, 3, image) == "mask_value"


def test_a_layout_in_place_of_an_affine_that_is_not_to_be_believed(tmp_path):
    image = _write(tmp_path / "a.nii", _volume())
    mask = _write(tmp_path / "m.nii", (_volume() > 200).astype(np.uint8), np.diag([-1.0, 7.0, 1.0, 1.0]))
    assert reason_of(read_mask, mask, 3, image) == "mask_mismatch"
    layout = read_layout(image)
    assert layout == ((0, 1, 2), (False, False, False))
    np.testing.assert_array_equal(read_mask(mask, 3, image, layout), _volume()[::-1, ::-1, 3].T > 200)
    mirrored = layout._replace(backwards=(True, False, True))
    np.testing.assert_array_equal(read_slice(image, 0, mirrored), _volume()[:, ::-1, -1].T)
    np.testing.assert_array_equal(read_mask(mask, 0, image, mirrored), _volume()[:, ::-1, -1].T > 200)
    small = _write(tmp_path / "s.nii", np.zeros((4, 5, 5), np.uint8))
    assert reason_of(read_mask, small, 0, image, layout) == "mask_mismatch"


def test_volumes_stay_open_as_long_as_there_is_room(tmp_path, monkeypatch):
    paths = [_write(tmp_path / f"{k}.nii.gz", _volume()) for k in range(8)]

    def opened(limit, asked):
        monkeypatch.setattr(nifti, "_opened", {})
        monkeypatch.setattr(nifti, "_KEPT_BYTES", limit)
        for path in asked:
            read_slice(path, 0)
        return [version.path for version in nifti._opened]

    assert opened(1 << 30, paths) == paths[2:]
    assert opened(240 * 3, paths) == paths[5:]
    assert opened(1, paths) == paths[6:]  # an image and its mask, however large
    assert opened(1, [paths[0], paths[1], paths[0]]) == paths[:2]


@pytest.mark.real_data
def test_a_real_torso(real_data):
    path = real_data / "ct_nifti" / "torso_ct.nii.gz"
    header = read_header(path)
    assert header.slices == 30
    slices = np.stack([read_hu(path, k, RANGE) for k in range(30)])
    assert slices.min() <= -1000
    assert -120 < np.median(slices[slices > -200]) < 120
    organs = [read_mask(real_data / "ct_nifti" / "torso_organs.nii.gz", k, path) for k in range(30)]
    assert np.stack(organs).max() > 0


@pytest.mark.real_data
def test_dicom_and_nifti_of_one_case_lie_alike(real_data):
    """The organs of `partial_body_organs.nii.gz` were drawn on the JPEG 2000 series."""
    from data_prep.ingest.dicom import read_headers
    from data_prep.ingest.dicom import read_hu as read_dicom

    files = sorted((real_data / "ct_dicom" / "partial_body_jpeg2000").iterdir())
    files.sort(key=lambda f: read_headers(f)[0].plane.position)
    path = real_data / "ct_nifti" / "partial_body_organs.nii.gz"
    masks = [read_slice(path, k) for k in range(read_header(path).slices)]
    assert len(masks) == len(files)
    right = wrong = 0
    for file, mask in zip(files, masks):
        if (mask > 0).sum() > 200:
            hu = read_dicom(file, RANGE)
            assert hu.shape == mask.shape
            right += int((hu[mask > 0] > -300).sum()) - int((hu[mask > 0] <= -300).sum())
            wrong += int((hu[::-1][mask > 0] > -300).sum()) - int((hu[::-1][mask > 0] <= -300).sum())
    assert right > wrong
